/** What lowering makes of a graph: values in memory, and kernel calls in order. */
import type { TensorType } from "../../ir/types.ts";
import type { KernelSpec } from "../kernel.ts";

/** A value in memory. */
export interface LoweredValue {
  readonly name: string;
  readonly type: TensorType;
  readonly role: "leaf" | "output" | "temporary";
  /** Name of the leaf or output it is bound to. */
  readonly leaf?: string;
  readonly output?: string;
  /** The value in whose memory this one is computed. */
  readonly inPlaceOf?: number;
}

/** One kernel call: for every buffer of the kernel the index of its value. */
export interface LoweredStep {
  readonly kernel: KernelSpec;
  readonly bindings: readonly number[];
}

/** A program as a list of kernel calls. */
export interface LoweredProgram {
  readonly values: readonly LoweredValue[];
  readonly steps: readonly LoweredStep[];
}
