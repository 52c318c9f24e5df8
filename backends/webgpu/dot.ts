/**
 * Contractions. A large side that can be streamed against few rows is (stream_mat_vec.ts); where one side has few rows otherwise, the
 * invocations of a workgroup share the contracted axis (mat_vec.ts); with many rows on both sides a workgroup computes a tile (tile.ts).
 */
import type { DotKernel } from "../kernel.ts";
import type { Dispatch } from "./entry.ts";
import { writeMatVec } from "./mat_vec.ts";
import { writeStream } from "./stream_mat_vec.ts";
import { writeTiles } from "./tile.ts";
import { dotPlans } from "./variants.ts";
import type { Writer } from "./writer.ts";

/** Entry points of a contraction in one of its variants. */
export function writeDot(
  writer: Writer,
  spec: DotKernel,
  variant: string,
): { lines: string[]; dispatches: Dispatch[] } {
  const plan = dotPlans(spec, writer.traits).get(variant);
  if (!plan) throw new Error(`Internal error in kernel ${spec.name}: no plan is called ${variant}`);
  switch (plan.kind) {
    case "stream":
      return writeStream(writer, spec, plan.plan);
    case "tile":
      return writeTiles(writer, spec, plan.plan);
    case "mat-vec":
      return writeMatVec(writer, spec);
    default:
      return plan satisfies never;
  }
}
