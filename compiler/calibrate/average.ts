/**
 * The mean of the learned values over the last part of a training. A small learning rate makes the noise of single steps small; the
 * mean makes it smaller at no cost worth naming (stories260K, 4 epochs, cascade: 3 bits 5.58 -> 5.46, 8 bits 3.7645 -> 3.7639).
 */
import type { Tensor } from "../../backends/backend.ts";
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf } from "../../ir/node.ts";
import { tensorType } from "../../ir/types.ts";
import type { Programs } from "./programs.ts";

/** A running mean of a flat array. */
export interface Average {
  /** Takes the values behind step `step` of `steps` in, if it is among the last `part` of them. */
  add(step: number, steps: number, part: number): void;
  /** Writes the mean to the array, if anything was taken in. */
  finish(): void;
  /** Forgets the mean. */
  release(): void;
}

/** mean += (values - mean)·share, in place: f32[n], `share` f32[1]. */
function averageProgram(n: number): Graph {
  const b = createBuilder(), flat = tensorType("f32", [n]), mean = b.input("mean", flat);
  const share = b.input("share", tensorType("f32", [1]));
  return graphOf({ mean: b.add(mean, b.mul(b.sub(b.input("values", flat), mean), share)) });
}

/** A mean of nothing yet, of `values`, f32[n]. */
export async function openAverage({ backend, get }: Programs, n: number, values: Tensor): Promise<Average> {
  const run = await get(`average ${n}`, () => averageProgram(n), {}, { inPlace: { mean: "mean" } });
  let count = 0, sums: { readonly mean: Tensor; readonly share: Tensor } | undefined;
  const release = () => {
    for (const tensor of Object.values(sums ?? {})) backend.free(tensor);
    sums = undefined;
  };
  return {
    add(step, steps, part) {
      if (step <= steps * (1 - part)) return;
      sums ??= {
        mean: backend.allocate(tensorType("f32", [n])),
        share: backend.allocate(tensorType("f32", [1])),
      };
      backend.write(sums.share, Float32Array.of(1 / ++count));
      backend.run(run, { ...sums, values });
    },
    finish() {
      if (!sums) return;
      // A share of one overwrites the values by the mean.
      backend.write(sums.share, Float32Array.of(1));
      backend.run(run, { mean: values, values: sums.mean, share: sums.share });
      release();
    },
    release,
  };
}
