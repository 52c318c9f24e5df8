import { assert, assertEquals, assertThrows } from "@std/assert";
import { adaptersOf } from "../../../compiler/adapters.ts";
import { holdParameters } from "../../../compiler/passes/hold_parameters.ts";
import { mapBlocks } from "../../../compiler/passes/quantize/linears.ts";
import { insertActivationQuantizers } from "../../../compiler/passes/quantize/insert_activation_quantizers.ts";
import { insertCacheQuantizers } from "../../../compiler/passes/quantize/insert_cache_quantizers.ts";
import { insertMaster } from "../../../compiler/passes/quantize/insert_master.ts";
import { insertWeightQuantizers } from "../../../compiler/passes/quantize/insert_weight_quantizers.ts";
import { stage } from "../../../compiler/passes/stage.ts";
import { specialize, topName } from "../../../compiler/passes/quantize/specialize.ts";
import { decodeFactor, type FactorLayout } from "../../../compiler/calibrate/stored_factors.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf } from "../../../ir/node.ts";
import { print } from "../../../ir/print.ts";
import {
  ADAPTER_SPACES,
  eachWidth,
  type LocalWidths,
  type QuantizationScheme,
  segmentEnds,
  sitesOf,
  WIDTHS,
} from "../../../ir/sites.ts";
import { bindSymbols } from "../../../ir/symbols.ts";
import { tensorType, type Width } from "../../../ir/types.ts";
import {
  blockOf,
  holdsOf,
  leafValues,
  quantizableBlock,
  run,
  SCHEME,
  uniformWidths,
} from "../../support/quantized_block.ts";
import { VARIANTS } from "../../support/random_decoder.ts";
import { maxDifference } from "../../support/run_module.ts";

const f32 = (...shape: (number | string)[]) => tensorType("f32", shape);
const result = (graph: Graph, given: Record<string, Float64Array> = {}) => run(graph, given).h ?? new Float64Array();

/** y = x·Wᵀ with heads: W [6,4] seen as [3,2,4]. */
function toyLinear(): Graph {
  const b = createBuilder(), weight = b.reshape(b.param("up.weight", f32(6, 4), "checkpoint"), [3, 2, 4]);
  return graphOf({ y: b.dot(b.input("x", f32("T", 4)), weight, { lhsContract: [1], rhsContract: [2] }) });
}

Deno.test("insertWeightQuantizers() marks the matrix behind a linear", () => {
  assertEquals(
    print(insertWeightQuantizers(toyLinear(), SCHEME)),
    `%0 = input {name="x", type="f32[T,4]"} : f32[T,4]
%1 = param {name="up.weight", time="checkpoint", type="f32[6,4]"} : f32[6,4]
%2 = site %1 {name="up.weight", role="weight"} : f32[6,4]
%3 = reshape %2 {shape=[3,2,4]} : f32[3,2,4]
%4 = dot %0 %3 {lhsContract=[1], rhsContract=[2]} : f32[T,3,2]
return y=%4
`,
  );
});

Deno.test("insertWeightQuantizers() stores the ranges of every kind of group where adapters leave the weight as it is", () => {
  const scheme: QuantizationScheme = {
    ...SCHEME,
    adapterSpace: "rounding",
    adapters: adaptersOf("off", eachWidth(() => 0)),
    groupSizes: { ...SCHEME.groupSizes, 3: 3 },
  };
  const master = insertMaster(toyLinear(), scheme), marked = insertWeightQuantizers(master, scheme);
  const ends = (range: string, groups: number) =>
    ["high", "low"].map((end) => `checkpoint up.weight.range.${range}.${end} f32[6,${groups},1]`);
  // Groups of 8 and 5 are whole rows of four columns, as those of -1 are.
  assertEquals(holdsOf(marked).filter((hold) => hold.includes("range")), [...ends("3", 2), ...ends("row", 1)]);
  const searched = insertWeightQuantizers(master, { ...scheme, adapterSpace: "weight" });
  for (const width of [3, 4]) {
    const at = (graph: Graph) => specialize(graph, { "up.weight": width }, scheme, "deploy");
    assertEquals(run(at(marked)).y, run(at(searched)).y);
    const made = (graph: Graph) =>
      stage(holdParameters(at(graph))).switch.nodes.filter(({ op }) => op === "max").length;
    assertEquals([made(marked), made(searched)], [0, 1]);
  }
});

Deno.test("insertMaster() stores int8 codes with f16 scales, fine codes beside them, in f16 the matrix itself", () => {
  assertEquals(holdsOf(insertMaster(toyLinear(), SCHEME)), [
    "checkpoint up.weight.master.codes i8[6,1,10]",
    "checkpoint up.weight.master.scales f16[6,1,1]",
  ]);
  assertEquals(holdsOf(insertMaster(toyLinear(), { master: { kind: "int10", groupSize: 12 } })), [
    "checkpoint up.weight.master.codes i8[6,1,12]",
    "checkpoint up.weight.master.fine u2[6,1,12]",
    "checkpoint up.weight.master.scales f16[6,1,1]",
  ]);
  assertEquals(holdsOf(insertMaster(toyLinear(), { master: { kind: "fp16" } })), [
    "checkpoint up.weight.master f16[6,4]",
  ]);
});

Deno.test("insertions name the sites of a decoder's block", () => {
  const sites = sitesOf(quantizableBlock()).map(({ role, name, type }) => `${role} ${name} ${type.shape}`);
  const weights = [
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "mlp.gate",
    "mlp.up",
    "mlp.down",
  ];
  const shapes = ["16,20", "8,20", "8,20", "20,16", "20,20", "20,20", "20,20"];
  assertEquals(
    [...sites].sort(),
    [
      ...["adapter", "weight"].flatMap((role) => weights.map((name, i) => `${role} ${name}.weight ${shapes[i]}`)),
      "activation attention.input B,T,20",
      "activation attention.output.input B,T,16",
      "activation mlp.input B,T,20",
      "activation mlp.down.input B,T,20",
      "key attention.key B,T,2,4",
      "value attention.value B,T,2,4",
    ].sort(),
  );
});

Deno.test("insertions leave every decoder's block as it is at 16 bits, but for the master's rounding", () => {
  for (const config of Object.values(VARIANTS)) {
    const plain = blockOf(config),
      marked = insertCacheQuantizers(insertActivationQuantizers(insertWeightQuantizers(plain, SCHEME)));
    assertEquals(result(specialize(marked, {}, SCHEME, "train")), result(plain));
    assert(maxDifference(result(specialize(marked, {}, SCHEME, "deploy")), result(plain)) < 1e-5);
    const mastered = specialize(quantizableBlock(config), {}, SCHEME, "deploy");
    assert(maxDifference(result(mastered), result(plain)) < 0.2);
    const half = specialize(quantizableBlock(config, { ...SCHEME, master: { kind: "fp16" } }), {}, SCHEME, "deploy");
    assert(maxDifference(result(half), result(plain)) < 0.02);
  }
});

Deno.test("insertions leave functions around the blocks alone", () => {
  const module = decoderModule(VARIANTS["untied, heads of 8"]),
    marked = mapBlocks(module, (graph) => insertWeightQuantizers(graph, SCHEME));
  const count = (name: string) => sitesOf(marked.functions[name] as Graph).length;
  assertEquals([count("embed"), count("block"), count("head")], [0, 7, 0]);
});

/** Top codes of every site, and the prefixes of the adapters that a train program takes whole. */
function trainLeaves(
  block: Graph,
  widths: LocalWidths,
  width: Width,
  activation: number,
): Record<string, Float64Array> {
  const given: Record<string, Float64Array> = {}, { pair, rank } = SCHEME.adapters.uses[width];
  const whole = leafValues(bindSymbols(specialize(block, widths, SCHEME, "deploy"), { B: 2, T: 3, S: 8 }));
  for (const { name, role } of sitesOf(block)) {
    given[topName(name)] = Float64Array.of(role === "activation" ? 2 ** (activation - 1) - 1 : 2 ** width - 1);
    const ends = segmentEnds(SCHEME.adapters, pair), columns = ends.at(-1) ?? 1;
    const factor = (part: "a" | "b", side: FactorLayout["side"]): Float32Array | undefined => {
      const codes = whole[`${name}.adapter.${pair}.${part}.codes`],
        scale = whole[`${name}.adapter.${pair}.${part}.scale`];
      if (!codes || !scale) return undefined;
      const rows = codes.length / columns;
      return decodeFactor(Int32Array.from(codes), Float32Array.from(scale), { side, ends, rows }).slice(0, rows * rank);
    };
    const a = factor("a", "right"), b = factor("b", "left");
    if (!a || !b) continue;
    given[`${name}.adapter.a`] = Float64Array.from(a);
    const rows = b.length / rank;
    given[`${name}.adapter.b`] = Float64Array.from(b, (_, i) => b[i % rank * rows + Math.floor(i / rank)] ?? NaN);
  }
  return given;
}

Deno.test("specialize() gives train and deploy programs of one value at every width, wherever adapters act", () => {
  const block = quantizableBlock();
  for (const adapterSpace of ADAPTER_SPACES) {
    const scheme = { ...SCHEME, adapterSpace };
    for (const width of WIDTHS) {
      for (const [activation, cache] of [[16, 16], [Math.max(width, 4), width]] as const) {
        const widths = uniformWidths(block, width, activation, cache);
        const train = result(specialize(block, widths, scheme, "train"), trainLeaves(block, widths, width, activation));
        const deploy = result(specialize(block, widths, scheme, "deploy"));
        // Padded columns change the order of sums; a code that lies on a rounding boundary may then flip.
        const different = Array.from(deploy).filter((x, i) => Math.abs(x - (train[i] ?? NaN)) > 1e-4).length;
        assertEquals(different, 0, `${width} bits, activations ${activation}, adapters in ${adapterSpace} space`);
      }
    }
  }
});

Deno.test("specialize() shares train programs between widths of equal rank and group size", () => {
  const block = quantizableBlock(),
    train = (width: number) =>
      print(
        specialize(block, uniformWidths(block, width, 8, 4), {
          ...SCHEME,
          adapters: { ...SCHEME.adapters, uses: { ...SCHEME.adapters.uses, 5: SCHEME.adapters.uses[4] } },
        }, "train"),
      );
  assertEquals(train(4), train(5));
  assert(train(4) !== train(6));
});

Deno.test("specialize() stores codes, scales and zero points, and names learned parameters by width", () => {
  const block = quantizableBlock(),
    graph = specialize(block, { "mlp.up.weight": 3, "attention.key": 4 }, SCHEME, "deploy");
  assertEquals(holdsOf(graph).filter((line) => !line.startsWith("checkpoint")), [
    "configuration mlp.up.weight.codes u3[20,4,5]",
    "configuration mlp.up.weight.scale f32[20,4,1]",
    "configuration mlp.up.weight.zero f32[20,4,1]",
    "token attention.key.codes u4[B,T,2,4]",
    "token attention.key.scale f32[B,T,2,1]",
    "token attention.key.zero f32[B,T,2,1]",
    "token attention.value f32[B,T,2,4]",
  ]);
  const learned = leavesOf(graph, "param").filter((node) => node.attrs.time === "calibration");
  assertEquals(learned.map((node) => `${nameOf(node)} ${node.type.shape}`).sort(), [
    "mlp.up.weight.adapter.common.a.codes 20,4",
    "mlp.up.weight.adapter.common.a.scale 20,4",
    "mlp.up.weight.adapter.common.b.codes 20,4",
    "mlp.up.weight.adapter.common.b.scale 20,4",
    "mlp.up.weight.clip.high.3 20,4,1",
    "mlp.up.weight.clip.low.3 20,4,1",
  ]);
});

Deno.test("specialize() pads the activation instead of cutting the weight", () => {
  const marked = insertWeightQuantizers(toyLinear(), SCHEME),
    scheme = { ...SCHEME, groupSizes: { ...SCHEME.groupSizes, 3: 3 } };
  const graph = specialize(marked, { "up.weight": 3 }, scheme, "deploy");
  const lines = graph.nodes.filter(({ op }) => ["slice", "pad", "dot"].includes(op)).map(({ op, inputs, type }) =>
    `${op} ${inputs.map((x) => `[${x.type.shape}]`).join(" ")} -> [${type.shape}]`
  );
  assertEquals(lines.sort(), ["dot [T,2,3] [6,2,3] -> [T,6]", "pad [6,4] -> [6,6]", "pad [T,4] -> [T,6]"]);
});

Deno.test("specialize() refuses unknown sites and impossible widths", () => {
  const block = quantizableBlock(),
    train = (widths: Record<string, number>) => () => specialize(block, widths, SCHEME, "train");
  assertThrows(train({ "mlp.uq.weight": 3 }), RangeError, 'Expected a site but found "mlp.uq.weight"; there are ');
  assertThrows(
    train({ "mlp.up.weight": 9 }),
    RangeError,
    'Expected a width from 2 to 8, or 16, for site "mlp.up.weight" but found 9',
  );
  assertThrows(
    train({ "mlp.input": 3 }),
    RangeError,
    'Expected a width from 4 to 8, or 16, for site "mlp.input" but found 3',
  );
  assertThrows(
    () =>
      specialize(
        block,
        { "mlp.up.weight": 3 },
        { ...SCHEME, adapters: { ...SCHEME.adapters, pairs: { common: 2 } } },
        "deploy",
      ),
    RangeError,
    'Expected at most 2 columns of the adapter "common" at 3 bits but found 3',
  );
});

Deno.test("insertCacheQuantizers() names what it cannot attribute, and tells operands of one linear apart", () => {
  const b = createBuilder(), x = b.input("x", f32(1, 2, 4)), weight = b.param("qkv.weight", f32(12, 4), "checkpoint");
  const qkv = b.reshape(b.dot(x, weight, { lhsContract: [2], rhsContract: [1] }), [1, 2, 3, 4]);
  const part = (i: number) => b.slice(qkv, [0, 0, i, 0], [1, 2, 1, 4]);
  const fused = graphOf({ y: b.attention(part(0), part(1), part(2), { scale: 1, causal: true }) });
  assertEquals(sitesOf(insertCacheQuantizers(fused)).map(({ name }) => name).sort(), ["qkv.key", "qkv.value"]);
  const bare = b.input("k", f32(1, 2, 1, 4)), loose = graphOf({ y: b.attention(bare, bare, bare, { scale: 1 }) });
  assertThrows(
    () => insertCacheQuantizers(loose),
    TypeError,
    "expected one linear that makes attention's key but found none",
  );
});

Deno.test("insertActivationQuantizers() refuses a weight that reads two values", () => {
  const b = createBuilder(),
    weight = b.param("up.weight", f32(2, 4), "checkpoint"),
    axes = { lhsContract: [1], rhsContract: [1] };
  const y = (name: string) => b.dot(b.input(name, f32(3, 4)), weight, axes);
  assertThrows(() => insertActivationQuantizers(graphOf({ y: y("x"), z: y("w") })), TypeError, '"up.weight" reads');
});
