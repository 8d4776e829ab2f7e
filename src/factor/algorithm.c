/* SPDX-License-Identifier: MIT */
#include "src/factor/algorithm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STEPS(eta, lambda, decay, decay_high, eta_bias, lambda_bias)                               \
    {"eta", eta, 3e-4, 3e-2, true, eta_bias}, {"lambda", lambda, 2e-2, .3, true, lambda_bias},     \
        {"decay", decay, decay_high > 0.0 ? 1e-3 : 0.0, decay_high, true, decay},                  \
        {"eta_bias", eta_bias, 3e-4, 3e-2, true, eta_bias},                                        \
    {                                                                                              \
        "lambda_bias", lambda_bias, 1e-3, .3, true, lambda_bias                                    \
    }
#define FIXED(name, value)                                                                         \
    {                                                                                              \
        name, value, value, value, false, value                                                    \
    }
#define LINEAR(name, value, low, high)                                                             \
    {                                                                                              \
        name, value, low, high, false, value                                                       \
    }
#define LOGARITHMIC(name, value, low, high)                                                        \
    {                                                                                              \
        name, value, low, high, true, value                                                        \
    }
#define TWO(name, value, low, high, scale, bias)                                                   \
    {                                                                                              \
        name, value, low, high, scale, bias                                                        \
    }

/* clang-format off */
static const fg_factor_algorithm table[FG_ALGO_COUNT] = {
    [FG_ALGO_SGD] = {"sgd", FG_FACTOR_SGD, FG_PARAM_GAIN, {
        STEPS(.001445, .07191, 0.0, 0.0, .004, .07)}},
    [FG_ALGO_SGD_DECAY] = {"sgd-decay", FG_FACTOR_SGD, FG_PARAM_GAIN, {
        STEPS(.00647, .07758, .0285, .3, .01, .075)}},
    [FG_ALGO_MOMENTUM] = {"momentum", FG_FACTOR_MOMENTUM, FG_PARAM_GAIN + 3, {
        STEPS(.0007, .07, 0.0, 0.0, .004, .07),
        LINEAR("beta1", .8, .5, .95), FIXED("beta2", 0.0), FIXED("eps", 0.0)}},
    [FG_ALGO_ADAGRAD] = {"adagrad", FG_FACTOR_ADAGRAD, FG_PARAM_GAIN + 3, {
        {"eta", .05, 1e-2, .5, true, .05}, {"lambda", .07, 2e-2, .3, true, .07},
        FIXED("decay", 0.0),
        {"eta_bias", .005, 3e-4, 3e-2, true, .005}, {"lambda_bias", .07, 1e-3, .3, true, .07},
        FIXED("beta1", 0.0), FIXED("beta2", 0.0), FIXED("eps", 1e-6)}},
    [FG_ALGO_ADAM] = {"adam", FG_FACTOR_ADAM, FG_PARAM_GAIN + 3, {
        {"eta", .001, 2e-4, 2e-2, true, .001}, {"lambda", .07, 2e-2, .3, true, .07},
        FIXED("decay", 0.0), {"eta_bias", .005, 3e-4, 3e-2, true, .005},
        {"lambda_bias", .07, 1e-3, .3, true, .07},
        LINEAR("beta1", .9, .5, .95), FIXED("beta2", .999), FIXED("eps", 1e-8)}},
    [FG_ALGO_PSL] = {"psl", FG_FACTOR_PSL, FG_PARAM_GAIN + 3, {
        STEPS(.003167, .08293, 0.0, 0.0, .005, .08),
        FIXED("kp", 1.0), LOGARITHMIC("ki", .001748, 1e-4, 1e-2), LINEAR("kd", .0120, 0.0, .5)}},
    [FG_ALGO_NPID] = {"npid", FG_FACTOR_NPID, FG_PARAM_GAIN + 9, {
        STEPS(.002455, .11885, 0.0, 0.0, .005, .1),
        LINEAR("ap", 1.364, .5, 2.0), LINEAR("bp", .0255, -.5, .5), LINEAR("cp", .203, .05, 2.0),
        LOGARITHMIC("ai", .003444, 1e-4, 1e-2), LINEAR("ci", 1.242, .1, 3.0),
        FIXED("ad", 0.0), LINEAR("bd", .991, 0.0, 1.5), LINEAR("cd", .204, 0.0, 2.0),
        LINEAR("dd", -1.845, -3.0, 3.0)}},
    [FG_ALGO_ADS_CHEAP] = {"ads-cheap", FG_FACTOR_ADS_CHEAP, FG_PARAM_GAIN + 7, {
        STEPS(.003861, .09635, 0.0, 0.0, .010659, .09099),
        LINEAR("k1", 1.301, .5, 2.5), LINEAR("k2", .0217, 0.0, 1.0),
        TWO("k3", 0.0, 0.0, 1.0, false, .0787),
        TWO("b01", .7213, .1, 1.5, false, .346), LOGARITHMIC("b02", .02063, 1e-3, .2),
        LOGARITHMIC("b03", .001678, 1e-4, 1e-2), LINEAR("delta", .772, .2, 1.5)}},
    [FG_ALGO_ADS] = {"ads", FG_FACTOR_ADS, FG_PARAM_GAIN + 12, {
        STEPS(.002692, .15881, 0.0, 0.0, .005, .1),
        FIXED("h", 1.0), LOGARITHMIC("r0", 1.467, .5, 100.0), LINEAR("b01", 1.232, .1, 1.5),
        LOGARITHMIC("b02", .00698, 1e-3, .2), LOGARITHMIC("b03", .001578, 1e-4, 1e-2),
        LINEAR("k1", 1.726, .5, 2.5), LINEAR("k2", .3406, 0.0, 1.0), LINEAR("a1", .733, .3, 1.0),
        LINEAR("a2", .708, .3, 1.5), LINEAR("delta", .8216, .2, 1.5), FIXED("b0", 0.0),
        LINEAR("k3", 1.683, 0.0, 2.0)}},
};
/* clang-format on */

const fg_factor_algorithm *fg_factor_algorithm_get(fg_factor_algo algo)
{
    return (unsigned)algo < FG_ALGO_COUNT ? &table[algo] : NULL;
}

const char *fg_factor_algo_name(unsigned algo)
{
    return algo < FG_ALGO_COUNT ? table[algo].name : NULL;
}

fg_factor_opts fg_factor_opts_default(fg_factor_algo algo, bool bias)
{
    fg_factor_opts o = {.algo = algo,
                        .rank = 20,
                        .bias = bias,
                        .init = bias ? .1 : .04,
                        .seed = 1,
                        .max_epoch = 1000,
                        .patience = 20,
                        .min_gain = 1e-5};
    for (uint32_t i = 0; i < table[algo].n_param; i++) {
        o.param[i] = bias ? table[algo].param[i].with_bias : table[algo].param[i].value;
    }
    return o;
}

fg_status fg_factor_opts_check(const fg_factor_opts *o, fg_err *err)
{
    const fg_factor_algorithm *a = fg_factor_algorithm_get(o->algo);
    if (a == NULL) return fg_fail(err, FG_EINVAL, "algorithm %d, expected a known one", o->algo);
    if (o->rank < 1 || o->rank > FG_FACTOR_MAX_RANK) {
        return fg_fail(err, FG_EINVAL, "rank %u, expected 1 to %d", o->rank, FG_FACTOR_MAX_RANK);
    }
    for (uint32_t i = 0; i < a->n_param; i++) {
        const double v = o->param[i];
        if (!isfinite(v) || fabs(v) > 1e6 || (i < FG_PARAM_GAIN && v < 0.0)) {
            return fg_fail(err, FG_EINVAL, "%s: %g, expected a number %s 1e6", a->param[i].name, v,
                           i < FG_PARAM_GAIN ? "from 0 to" : "within");
        }
    }
    if ((o->algo == FG_ALGO_ADS || o->algo == FG_ALGO_ADS_CHEAP)) {
        const uint32_t at = FG_PARAM_GAIN + (o->algo == FG_ALGO_ADS ? 9 : 6);
        if (!(o->param[at] >= 1e-6)) {
            return fg_fail(err, FG_EINVAL, "delta: %g, expected at least 1e-6", o->param[at]);
        }
    }
    if (!(o->init > 0.0) || o->init > 100.0) {
        return fg_fail(err, FG_EINVAL, "start: %g, expected above 0, at most 100", o->init);
    }
    return FG_OK;
}

static fg_status set_one(fg_factor_opts *o, const char *word, size_t n, fg_err *err)
{
    const fg_factor_algorithm *a = &table[o->algo];
    const char *is = memchr(word, '=', n);
    char number[40];
    const size_t n_name = is == NULL ? n : (size_t)(is - word);
    const size_t n_number = is == NULL ? 0 : n - n_name - 1;
    if (n_number == 0 || n_number >= sizeof number) {
        return fg_fail(err, FG_EINVAL, "parameter '%.*s': no value, expected NAME=NUMBER", (int)n,
                       word);
    }
    memcpy(number, is + 1, n_number);
    number[n_number] = '\0';
    char *end;
    const double v = strtod(number, &end);
    if (*end != '\0') {
        return fg_fail(err, FG_EINVAL, "%.*s: %s, expected a number", (int)n_name, word, number);
    }
    for (uint32_t i = 0; i < a->n_param; i++) {
        if (strlen(a->param[i].name) == n_name && memcmp(a->param[i].name, word, n_name) == 0) {
            o->param[i] = v;
            return FG_OK;
        }
    }
    char known[256] = "";
    for (uint32_t i = 0; i < a->n_param; i++) {
        strncat(known, i == 0 ? "" : ", ", sizeof known - strlen(known) - 1);
        strncat(known, a->param[i].name, sizeof known - strlen(known) - 1);
    }
    return fg_fail(err, FG_EINVAL, "%.*s: no parameter of %s, expected one of %s", (int)n_name,
                   word, a->name, known);
}

fg_status fg_factor_opts_set(fg_factor_opts *o, const char *text, fg_err *err)
{
    while (*text != '\0') {
        const size_t n = strcspn(text, ",");
        FG_TRY(set_one(o, text, n, err));
        text += n + (text[n] == ',');
    }
    return fg_factor_opts_check(o, err);
}
