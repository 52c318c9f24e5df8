/** Products of activations with packed weights, as graphs the passes make and as the kernel they become. */
import type { HostArray } from "../../backends/backend.ts";
import { hostArray } from "../../backends/backend.ts";
import type { DotKernel } from "../../backends/kernel.ts";
import { lowerGraph } from "../../backends/regions/lower.ts";
import { contractIntegers } from "../../compiler/passes/contract_integers.ts";
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf } from "../../ir/node.ts";
import type { Random } from "../../ir/random.ts";
import {
  type DType,
  isFloat,
  isNarrow,
  rangeOf,
  sizeOf,
  tensorType,
  unsignedType,
  type Width,
} from "../../ir/types.ts";

/** A product x [m, groups·group] · ŵᵀ [n, groups·group]. */
export interface ProductShape {
  readonly m: number;
  readonly n: number;
  readonly groups: number;
  readonly group: number;
  readonly width: Width;
  /** Bits of activations: integers with one scale per row, or f32 where undefined. */
  readonly activation?: number | undefined;
}

/** The graph of a product; ŵ = (codes - zero)·scale with one zero and scale per row and group. */
export function productGraph({ m, n, groups, group, width, activation }: ProductShape): Graph {
  const b = createBuilder(), k = groups * group, perGroup = tensorType("f32", [n, groups, 1]);
  const codes = b.param("codes", tensorType(unsignedType(width), [n, groups, group]), "configuration");
  const centred = b.sub(b.cast(codes, "f32"), b.param("zero", perGroup, "configuration"));
  const w = b.mul(centred, b.param("scale", perGroup, "configuration"));
  if (activation === undefined) {
    const x = b.input("x", tensorType("f32", [m, k]));
    return graphOf({ y: b.dot(x, b.reshape(w, [n, k]), { lhsContract: [1], rhsContract: [1] }) });
  }
  const x = b.input("x", tensorType(`i${activation}` as DType, [m, k]));
  const scaled = b.mul(b.cast(x, "f32"), b.input("xScale", tensorType("f32", [m, 1])));
  const y = b.dot(b.reshape(scaled, [m, groups, group]), w, { lhsContract: [1, 2], rhsContract: [1, 2] });
  return contractIntegers(graphOf({ y }));
}

/** The contraction of a product, as the fuser specifies it. */
export function productKernel(shape: ProductShape): DotKernel {
  const kernel = lowerGraph(productGraph(shape)).steps.map((step) => step.kernel).find(({ kind }) => kind === "dot");
  if (kernel?.kind !== "dot") throw new Error("The product has no contraction");
  return kernel;
}

/** Values for the kernel's buffers: codes over their whole range, whole zero points, normal activations. */
export function productBuffers({ buffers }: DotKernel, { width }: ProductShape, draw: Random): HostArray[] {
  return buffers.map(({ name, type, use }) => {
    const values = hostArray(type.dtype, sizeOf(type.shape)), { dtype } = type;
    if (use === "write") return values;
    return values.map(() => {
      if (isNarrow(dtype)) {
        const [low, high] = rangeOf(dtype);
        return low + draw.int(high - low + 1);
      }
      if (!isFloat(dtype)) return draw.int(2001) - 1000;
      if (name.includes("zero")) return draw.int(2 ** width);
      return name.includes("cale") ? 0.01 + 0.02 * draw.uniform() : draw.normal();
    }) as HostArray;
  });
}
