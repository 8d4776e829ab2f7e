/* SPDX-License-Identifier: MIT
 *
 * Which node has which part of a model's weights, and where in its memory: FORMAT.md 7 carried out
 * for all tensors of a file, from its plan and a placement alone.
 *
 * A matrix is cut by groups of panels; what is left over goes round the nodes, within the products
 * of one step and over the experts of a layer, so that what runs at the same time is even.  What is
 * no product (norms, the embedding) is whole on one node, another for each layer, and every node
 * has the routers, which are small and read by all.  Row scales go with the panels to every node.
 *
 * A node's memory is an area: first its parts of everything dense, then those of each expert, all
 * of them on borders of 4 KiB.  An area may be held whole, or experts one by one: positions are
 * given within both.  With one node, and with FG_NUMA_MIRROR on each, an extent of the file is one
 * piece.
 */
#ifndef FG_SRC_EXPERT_SLICES_H
#define FG_SRC_EXPERT_SLICES_H

#include "src/format/file_plan.h"
#include "src/sys/place.h"

typedef struct fg_slices fg_slices;

/* A read: bytes of the file, all multiples of 4 KiB, and where they go. */
typedef struct fg_slice {
    uint64_t offset, bytes;
    uint64_t at; /* in the node's part of this extent */
    uint32_t node;
} fg_slice;

enum { FG_EXPERT_PIECES = 3 }; /* of an expert on one node, at most: scales, pairs, down */

/* Plan and placement are borrowed.  FG_ENOMEM. */
fg_status fg_slices_create(fg_slices **out, const fg_file_plan *plan, const fg_place *place,
                           fg_err *err);
void fg_slices_destroy(fg_slices **s); /* accepts NULL */

/* Nodes with an area of their own, those of the placement. */
uint32_t fg_slices_n_node(const fg_slices *s);
const fg_place *fg_slices_place(const fg_slices *s);

/* Each node has all of every extent: there is one node, or every one is a mirror. */
bool fg_slices_whole(const fg_slices *s);

/* Each node has all of this tensor. */
bool fg_slices_everywhere(const fg_slices *s, uint64_t idx);

/* Matrices of attention and the head: what a device with the dense part of the network multiplies
 * by, and then nobody here.  All else that is dense is small, or looked up, and always here. */
bool fg_slices_is_product(fg_role role);

/* Which panels of tensor number `idx` of the file a node has; of a vector, begin is in elements and
 * all are on one node.  Of what is everywhere: which it works on. */
const fg_share *fg_slices_share(const fg_slices *s, uint64_t idx);

/* Extents: FG_NO_LAYER, FG_NO_LAYER: everything dense, as one; layer, expert: an expert. */
/* Bytes of a node's part, and where it begins in the area. */
uint64_t fg_slices_bytes(const fg_slices *s, uint32_t layer, uint32_t expert, uint32_t node);
uint64_t fg_slices_begin(const fg_slices *s, uint32_t layer, uint32_t expert, uint32_t node);
/* Bytes of a node's area, and of its largest part of an expert. */
uint64_t fg_slices_area(const fg_slices *s, uint32_t node);
uint64_t fg_slices_slot(const fg_slices *s, uint32_t node);

/* Where, in a node's part of its extent, its panels of a tensor begin, and the row scales of these
 * (meaningless without any). */
uint64_t fg_slices_panels(const fg_slices *s, uint64_t idx, uint32_t node);
uint64_t fg_slices_scales(const fg_slices *s, uint64_t idx, uint32_t node);

/* The reads that fill a node's part of an extent, in the order in which its bytes are wanted: of an
 * expert at most FG_EXPERT_PIECES.  out may be NULL.  Returns their number. */
size_t fg_slices_pieces(const fg_slices *s, uint32_t layer, uint32_t expert, uint32_t node,
                        fg_slice *out);
/* Those of everything dense but such products; and the bytes of a node's part that are in none of
 * them. */
size_t fg_slices_pieces_kept(const fg_slices *s, uint32_t node, fg_slice *out);
uint64_t fg_slices_products(const fg_slices *s, uint32_t node);

/* What has to be there before the first `last` panels of an expert's matrix (numbered as in the
 * matrix, beyond the node's first) can be used on a node: all of the pieces before `piece`, and
 * `bytes` of that one. */
typedef struct fg_reach {
    uint32_t piece;
    uint64_t bytes;
} fg_reach;
fg_reach fg_slices_reach(const fg_slices *s, uint64_t idx, uint32_t node, uint64_t last);

#endif
