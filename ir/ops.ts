/**
 * The table of operations: the only list there is. One record per op holds its documentation, attributes, type rule,
 * reference semantics, gradient and cost; backends add lowerings in tables that the type checker compares with this one.
 */
import { ATTENTIONS } from "./ops/attention.ts";
import { CONTRACTIONS, TRANSFORMS } from "./ops/contractions.ts";
import { LEAVES } from "./ops/leaves.ts";
import { MAPS } from "./ops/maps.ts";
import { MOVEMENTS } from "./ops/movement.ts";
import type { OpRecord } from "./ops/record.ts";
import { RANKINGS, REDUCTIONS } from "./ops/reductions.ts";
import { MARKERS, STATES } from "./ops/state.ts";

/** Every operation by name. */
export const OPS = {
  ...LEAVES,
  ...MOVEMENTS,
  ...MAPS,
  ...REDUCTIONS,
  ...RANKINGS,
  ...CONTRACTIONS,
  ...TRANSFORMS,
  ...ATTENTIONS,
  ...MARKERS,
  ...STATES,
} satisfies Record<string, OpRecord>;

/** Name of an operation. */
export type OpName = keyof typeof OPS;
/** Name of an elementwise operation. */
export type MapOp = keyof typeof MAPS;
/** Name of a movement. */
export type MovementOp = keyof typeof MOVEMENTS;
/** Name of a reduction. */
export type ReduceOp = keyof typeof REDUCTIONS;

/** The record of an op. */
export const recordOf = (op: OpName): OpRecord => OPS[op];

/** Whether a text names an operation. */
export const isOpName = (text: string): text is OpName => Object.hasOwn(OPS, text);
/** Whether an op is elementwise. */
export const isMap = (op: OpName): op is MapOp => Object.hasOwn(MAPS, op);
/** Whether an op only moves values. */
export const isMovement = (op: OpName): op is MovementOp => Object.hasOwn(MOVEMENTS, op);
/** Whether an op is a plain reduction. */
export const isReduce = (op: OpName): op is ReduceOp => Object.hasOwn(REDUCTIONS, op);
