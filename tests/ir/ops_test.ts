/** What every record of the op table must keep: see also `attention_test.ts` and `ties_test.ts`. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { evaluate } from "../../backends/reference/evaluate.ts";
import { gradients } from "../../ir/autodiff.ts";
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf, type Node } from "../../ir/node.ts";
import { type OpName, OPS, recordOf } from "../../ir/ops.ts";
import { parse } from "../../ir/parse.ts";
import { print } from "../../ir/print.ts";
import { isFloat, isInteger, rangeOf, sizeOf, tensorType } from "../../ir/types.ts";
import { verify } from "../../ir/verify.ts";
import { assertGradients } from "../support/finite_differences.ts";
import { type RandomGraph, randomGraph, type RandomGraphOptions } from "../support/random_graphs.ts";

const NAMES = Object.keys(OPS) as OpName[];
/** Nothing flows through: leaves, and what only ever runs outside of differentiated programs. */
const WITHOUT_GRADIENT: readonly OpName[] = ["param", "input", "constant", "iota", "attentionGrad", "update"];
/** Steps and choices, whose gradient is nothing rather than zeros. */
const STEPS: readonly OpName[] = ["round", "floor", "compare", "topK"];
/** Operands that are constants by definition although they are floating-point numbers: signs, biases of scores. */
const CONSTANT_FROM: Partial<Record<OpName, number>> = { hadamard: 1, attention: 3 };
const CASES = 30;

/** Graphs of one node of `op` on leaves of its own, at random shapes and attributes. */
function* graphsOf(op: OpName, options: RandomGraphOptions): Generator<RandomGraph & { root: Node; seed: number }> {
  for (let seed = 0, found = 0; found < CASES; seed++) {
    assert(seed < 20 * CASES, `the generator makes too few graphs of ${op}`);
    const made = randomGraph(seed, { maxNodes: 1, ops: [op], ...options }), root = made.graph.nodes.at(-1);
    if (root?.op !== op) continue;
    found++;
    yield { ...made, root, seed };
  }
}

for (const op of NAMES) {
  const { doc, vjp } = recordOf(op);

  Deno.test(`${op}: one line of documentation`, () => {
    assert(doc.length >= 6 && !doc.includes("\n") && !doc.endsWith("."), doc);
  });

  Deno.test(`${op}: verifies, prints and parses back; its type is that of the reference result; its cost is finite`, () => {
    for (const { graph, leaves, root, seed } of graphsOf(op, { half: true })) {
      verify(graph, `seed ${seed}`, { concrete: true });
      const parsed = parse(print(graph));
      assertEquals(print(parsed), print(graph));
      const [result] = Object.values(evaluate(graph, leaves)), types = root.inputs.map(({ type }) => type);
      assertEquals(result?.length, sizeOf(root.type.shape), print(graph));
      for (const x of result ?? []) assert(holds(root, x), `${x} is no ${root.type.dtype}:\n${print(graph)}`);
      const operations = recordOf(op).operations?.(types, root.attrs, root.type) ?? 0;
      assert(Number.isFinite(operations) && operations >= 0, `${operations} operations`);
    }
  });

  if (vjp && op !== "straightThrough" && !STEPS.includes(op)) {
    Deno.test(`${op}: its gradient is the finite difference`, () => {
      let compared = 0;
      for (const made of graphsOf(op, { values: "real" })) {
        if (made.root.attrs.of === "logSumExp" || !isFloat(made.root.type.dtype)) continue;
        const operands = made.root.inputs.slice(0, CONSTANT_FROM[op] ?? Infinity);
        const wrt = [...new Set(operands)].filter((node) =>
          isFloat(node.type.dtype) && node.op !== "constant" && node.op !== "compare"
        );
        assertGradients(made, wrt, `${op}, seed ${made.seed}`);
        compared += wrt.length;
      }
      assert(compared >= 4, `only ${compared} gradients compared`);
    });
  }
}

/** Whether x is a number that the node's element type holds. */
function holds({ type: { dtype } }: Node, x: number): boolean {
  if (dtype === "bool") return x === 0 || x === 1;
  if (!isInteger(dtype)) return Number.isFinite(x);
  const [low, high] = rangeOf(dtype);
  return Number.isInteger(x) && !Object.is(x, -0) && x >= low && x <= high;
}

Deno.test("only leaves, attentionGrad and update have no gradient", () => {
  assertEquals(NAMES.filter((op) => recordOf(op).vjp === undefined), [...WITHOUT_GRADIENT]);
});

for (const op of STEPS) {
  Deno.test(`${op}: nothing flows back`, () => {
    for (const { graph, root } of graphsOf(op, { values: "real" })) {
      const b = createBuilder(), dy = b.input("dy", root.type);
      for (const gradient of gradients(b, graph, { y0: dy }, root.inputs)) {
        assertEquals([gradient.op, gradient.attrs.values], ["constant", [0]]);
      }
    }
  });
}

Deno.test("straightThrough: the value of the first, the gradient to the second alone", () => {
  const b = createBuilder(), type = tensorType("f32", [3]), x = b.input("x", type), t = b.input("t", type);
  const graph = graphOf({ y: b.straightThrough(b.round(x), t) }), dy = b.input("dy", type);
  const [dx, dt] = gradients(b, graph, { y: dy }, [x, t]);
  const data = { x: Float64Array.of(0.6, 1.5, 2.5), t: Float64Array.of(7, 8, 9), dy: Float64Array.of(1, -2, 3) };
  assertEquals(evaluate(graph, data).y, Float64Array.of(1, 2, 2));
  assertEquals(evaluate(graphOf({ dx: dx as Node, dt: dt as Node }), data), { dx: new Float64Array(3), dt: data.dy });
});

/** One node on inputs of the given types, in textual form. */
function build(op: string, types: readonly string[], attrs = ""): Graph {
  const inputs = types.map((type, i) => `%${i} = input {name="${i}", type="${type}"} : ${type}\n`).join("");
  return parse(`${inputs}%y = ${op} ${types.map((_, i) => `%${i}`).join(" ")} {${attrs}} : f32[]\nreturn y=%y`);
}

Deno.test("type rules reject what does not fit and say what was expected", () => {
  const cases: readonly [op: string, types: readonly string[], attrs: string, message: string][] = [
    ["add", ["f32[2]", "f32[3]"], "", "Cannot build add: expected operands of one shape but found f32[2] and f32[3]"],
    ["mul", ["f32[2]", "i32[2]"], "", "Cannot build mul: expected operands of one type"],
    ["add", ["u4[2]", "u4[2]"], "", "Cannot build add: expected operands of one type, f32, f16 or i32,"],
    ["div", ["f32[2]", "f16[2]"], "", "Cannot build div: expected operands of one floating-point type"],
    ["exp", ["i32[2]"], "", "Cannot build exp: expected operands of one floating-point type but found i32[2]"],
    ["select", ["f32[2]", "f32[2]", "f32[2]"], "", "Cannot build select: expected a condition of type bool"],
    ["straightThrough", ["f32[2]", "f16[2]"], "", "Cannot build straightThrough: expected operands of one type"],
    ["compare", ["f32[2]", "f32[2]"], 'direction="ne"', 'expected one of eq, lt, le, gt, ge but found \\"ne\\"'],
    ["cast", ["f32[2]"], 'dtype="f64"', "Cannot build cast: expected a numeric type instead of"],
    ["reshape", ["f32[6]"], "shape=[4,2]", "Cannot build reshape: expected as many elements as [4,2] but found f32[6]"],
    ["transpose", ["f32[2,3]"], "permutation=[0,0]", "Cannot build transpose: expected a permutation of its axes"],
    ["broadcast", ["f32[2]"], "shape=[3]", "Cannot build broadcast: expected a shape that repeats to [3]"],
    ["slice", ["f32[4]"], "starts=[2], sizes=[3]", "Cannot build slice: expected room for starts [2], sizes [3]"],
    ["slice", ["f32[4]"], "starts=[1], sizes=[3], steps=[-1]", "Cannot build slice: expected room for"],
    ["concat", ["f32[2,3]", "f32[3,3]"], "axis=1", "Cannot build concat: expected shapes equal but for axis 1"],
    ["pad", ["f32[4]"], "before=[-1], after=[0]", "Cannot build pad: expected one amount, at least 0,"],
    ["gather", ["f32[4,2]", "f32[3]"], "", "Cannot build gather: expected a table and integer indices"],
    ["sum", ["f32[4]"], "axes=[1]", "Cannot build sum: expected f32, f16 or i32 with axes [1]"],
    ["max", ["f32[4]"], "axes=[]", "Cannot build max: expected f32, f16 or i32 with axes []"],
    ["topK", ["f32[4]"], "k=5", "Cannot build topK: expected at least 5 values on a last axis"],
    ["dot", ["f32[2,3]", "f32[2,3]"], "lhsContract=[1], rhsContract=[0]", "Cannot build dot: expected both float"],
    ["dot", ["f32[2,2]", "f32[2,2]"], "lhsContract=[1,1], rhsContract=[0,1]", "with equal and distinct axes"],
    ["dot", ["f32[2]", "i32[2]"], "lhsContract=[0], rhsContract=[0]", "expected both float or both integer"],
    ["hadamard", ["f32[6]"], "axis=0", "expected an axis as long as a Hadamard matrix that is known but found f32[6]"],
    ["hadamard", ["f32[4]", "f32[2]"], "axis=0", "Cannot build hadamard: expected 4 signs"],
    [
      "attention",
      ["f32[1,2,3,4]", "f32[1,2,2,4]", "f32[1,2,2,4]"],
      'of="output", scale=1',
      "expected q [B,T,H,d], k [B,S,G,d], v [B,S,G,e] of f32 with G dividing H",
    ],
    [
      "attention",
      ["f32[1,2,2,4]", "f32[1,3,2,4]", "f32[1,3,2,4]"],
      'of="output", scale=1, causal=true',
      "expected positions where queries and keys differ in number",
    ],
    [
      "attention",
      ["f32[1,2,2,4]", "f32[1,3,2,4]", "f32[1,3,2,4]", "f32[2,3]"],
      'of="output", scale=1, bias=true',
      "expected bias [H,T,S] or [B,H,T,S] of f32",
    ],
    [
      "attention",
      ["f32[1,2,2,4]", "f32[1,2,2,4]", "f32[1,2,2,4]"],
      'of="output", scale=1, window=2',
      "expected a window only where it is causal, of at least one key, not 2 keys,",
    ],
    [
      "attention",
      ["f32[1,2,2,4]", "f32[1,2,2,4]", "f32[1,2,2,4]"],
      'of="output", scale=1, causal=true, window=0',
      "expected a window only where it is causal, of at least one key, not 0 keys,",
    ],
    ["update", ["f32[1,4,2]", "f32[1,2,3]", "i32[1,2]"], "", "Cannot build update: expected cache [B,S,…]"],
    ["update", ["f32[1,4,2]", "f32[1,2,2]", "i32[1,3]"], "", "Cannot build update: expected cache [B,S,…]"],
    ["hold", ["f32[2]"], 'name="w", time="later"', "Expected one of checkpoint, calibration, configuration, token"],
    ["site", ["f32[2]"], 'name="w", role="query"', "Expected one of weight, adapter, activation, key, value"],
  ];
  for (const [op, types, attrs, message] of cases) {
    assertThrows(() => build(op, types, attrs), SyntaxError, message.replaceAll('\\"', '"'));
  }
});

Deno.test("cast saturates and drops the fraction; gather clamps; update drops rows outside", () => {
  const b = createBuilder(), x = b.constant([-9.5, -0.5, 2.9, 300], tensorType("f32", [4]));
  const table = b.constant([1, 2, 3], tensorType("f32", [3])), indices = b.constant([-1, 1, 7], tensorType("i32", [3]));
  const cache = b.constant(0, tensorType("f32", [1, 3, 1])), rows = b.constant([5, 6], tensorType("f32", [1, 2, 1]));
  const positions = b.constant([2, 3], tensorType("i32", [1, 2]));
  const results = evaluate(
    graphOf({
      u3: b.cast(x, "u3"),
      i4: b.cast(x, "i4"),
      i32: b.cast(x, "i32"),
      gather: b.gather(table, indices),
      update: b.update(cache, rows, positions),
    }),
    {},
  );
  assertEquals(results, {
    u3: Float64Array.of(0, 0, 2, 7),
    i4: Float64Array.of(-8, 0, 2, 7),
    i32: Float64Array.of(-9, 0, 2, 300),
    gather: Float64Array.of(1, 2, 3),
    update: Float64Array.of(0, 0, 5),
  });
});

Deno.test("gather: indices outside give the gradient to the row they are clamped to", () => {
  const b = createBuilder(),
    table = b.input("table", tensorType("f32", [3])),
    dy = b.input("dy", tensorType("f32", [4]));
  const graph = graphOf({ y: b.gather(table, b.constant([-1, 7, 2, 1], tensorType("i32", [4]))) });
  const [gradient] = gradients(b, graph, { y: dy }, [table]);
  assertEquals(
    evaluate(graphOf({ g: gradient as Node }), { dy: Float64Array.of(1, 2, 4, 8) }).g,
    Float64Array.of(1, 8, 6),
  );
});

Deno.test("topK: largest first, of equal ones the lower index", () => {
  const b = createBuilder(), x = b.constant([1, 3, 2, 3, 0, 3, 1, 1], tensorType("i32", [2, 4]));
  assertEquals(evaluate(graphOf({ y: b.topK(x, 3) }), {}).y, Float64Array.of(1, 3, 2, 1, 2, 3));
});

Deno.test("dot: integers accumulate exactly, mixed floats in f32", () => {
  const b = createBuilder(), x = b.input("x", tensorType("u8", [1, 3])), y = b.input("y", tensorType("i8", [3, 1]));
  const graph = graphOf({ y: b.dot(x, y, { lhsContract: [1], rhsContract: [0] }) });
  assertEquals(graph.outputs[0]?.node.type, tensorType("i32", [1, 1]));
  assertEquals(
    evaluate(graph, { x: Float64Array.of(255, 1, 2), y: Float64Array.of(-128, 3, 4) }).y,
    Float64Array.of(-32629),
  );
  const half = b.input("h", tensorType("f16", [2])), single = b.input("s", tensorType("f32", [2]));
  assertEquals(b.dot(half, single, { lhsContract: [0], rhsContract: [0] }).type, tensorType("f32", []));
});
