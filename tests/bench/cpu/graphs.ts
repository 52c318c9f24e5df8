/** Products as the compiler's passes build them, and how long they take. */
import { hostArray } from "../../../backends/backend.ts";
import { openWasm } from "../../../backends/wasm/backend.ts";
import { contractIntegers } from "../../../compiler/passes/contract_integers.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { bitsOf, type NarrowType, sizeOf, tensorType, unsignedType, type Width } from "../../../ir/types.ts";

/** A product of x [m,k] and a weight [n,k]. */
export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Bits of the weight; f32 where undefined. */
  readonly width?: Width;
  /** Bits of activations, with a scale per row; f32 where undefined. */
  readonly activations?: Width;
  /** Columns that share a scale and a zero point. Default: all of them. */
  readonly group?: number;
}

/** The graph of a product. */
export function product({ m, n, k, width, activations, group = k }: Product): Graph {
  const b = createBuilder(), groups = k / group;
  if (width === undefined) {
    const w = b.param("w", tensorType("f32", [n, k]), "configuration");
    return graphOf({ y: b.dot(b.input("x", tensorType("f32", [m, k])), w, { lhsContract: [1], rhsContract: [1] }) });
  }
  const perGroup = tensorType("f32", [n, groups, 1]);
  const codes = b.param("codes", tensorType(unsignedType(width), [n, groups, group]), "configuration");
  const zero = b.param("zero", perGroup, "configuration"), scale = b.param("scale", perGroup, "configuration");
  const w = b.mul(b.sub(b.cast(codes, "f32"), zero), scale);
  if (activations === undefined) {
    const x = b.input("x", tensorType("f32", [m, k]));
    return graphOf({ y: b.dot(x, b.reshape(w, [n, k]), { lhsContract: [1], rhsContract: [1] }) });
  }
  const x = b.input("x", tensorType(`i${activations}` as NarrowType, [m, groups, group]));
  const rows = b.mul(b.cast(b.reshape(x, [m, k]), "f32"), b.input("x.scale", tensorType("f32", [m, 1])));
  const axes = { lhsContract: [1, 2], rhsContract: [1, 2] };
  return contractIntegers(graphOf({ y: b.dot(b.reshape(rows, [m, groups, group]), w, axes) }));
}

/** A program on random leaves, ready to run again and again. */
export async function openGraph(graph: Graph, threads: number) {
  const backend = await openWasm({ threads }), program = await backend.compile(graph), rng = random(1, "bench");
  const leaves = Object.fromEntries(
    Object.entries(program.leaves).map(([name, type]) => {
      const values = hostArray(type.dtype, sizeOf(type.shape)), signed = type.dtype.startsWith("i");
      const most = type.dtype === "f32" ? 0 : 2 ** (bitsOf(type.dtype) - (signed ? 1 : 0)) - 1;
      for (let i = 0; i < values.length; i++) values[i] = most === 0 ? rng.normal() : rng.int(most + 1);
      return [name, backend.upload(type, values)];
    }),
  );
  const outputs = backend.run(program, leaves);
  return {
    run: () => {
      backend.run(program, leaves, outputs);
    },
    close: () => backend[Symbol.asyncDispose](),
  };
}
