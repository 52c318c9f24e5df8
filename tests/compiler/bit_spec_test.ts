import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { type BitSpec, configOf, parseBitSpec, parseBitSpecs, withPins } from "../../compiler/bit_spec.ts";
import { weightBytes } from "../../compiler/budget.ts";
import { parsePin } from "../../compiler/pins.ts";
import type { Frontier } from "../../compiler/allocate/frontier.ts";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { meanBits, type ModelSite, modelSites } from "../../compiler/model_sites.ts";
import { elasticModule } from "../../compiler/pipeline.ts";
import { UserError } from "../../ir/errors.ts";
import { VARIANTS } from "../support/random_decoder.ts";
import { tinyRecipe } from "../support/tiny_artifact.ts";

const weights = fc.constantFrom(2, 3, 4, 5, 6, 7, 8, 16), activations = fc.constantFrom(4, 5, 6, 7, 8, 16);
const texts = (specs: readonly BitSpec[]) => specs.map(({ text }) => text);

const weight = (name: string, rows: number, columns: number): ModelSite => ({
  name,
  role: "weight",
  parameters: rows * columns,
  rows,
});
const SITES: readonly ModelSite[] = [
  weight("up.weight", 10, 6),
  { name: "up.input", role: "activation", parameters: 0, rows: 0, readers: ["up.weight"] },
  { name: "key", role: "key", parameters: 0, rows: 0 },
  { name: "value", role: "value", parameters: 0, rows: 0 },
  weight("down.weight", 5, 4),
];
const FRONTIER: Frontier = {
  sites: ["down.weight", "up.weight"],
  parameters: [20, 60],
  points: [["22", 9], ["32", 5], ["33", 3], ["84", 1]].map(([widths, loss]) => {
    const [down, up] = [...String(widths)].map(Number);
    return { widths: String(widths), loss: Number(loss), meanBits: (20 * (down ?? 0) + 60 * (up ?? 0)) / 80 };
  }),
};

Deno.test("parseBitSpec() reads every form back, and keeps what the user wrote", () => {
  fc.assert(fc.property(weights, fc.option(activations), fc.option(weights), (w, a, kv) => {
    const text = `w${w}${a === null ? "" : `a${a}`}${kv === null ? "" : `kv${kv}`}`;
    assertEquals(parseBitSpec(` ${text} `), {
      kind: "uniform",
      text,
      weights: w,
      activations: a ?? 16,
      cache: kv ?? 16,
    });
  }));
  fc.assert(fc.property(weights, (w) => {
    assertEquals(parseBitSpec(`${w}`), { kind: "uniform", text: `${w}`, weights: w, activations: 16, cache: 16 });
  }));
  fc.assert(fc.property(fc.integer({ min: 200, max: 800 }), (hundredths) => {
    const text = `mixed@${hundredths / 100}`;
    assertEquals(parseBitSpec(text), { kind: "mixed", text, budget: { kind: "bits", most: hundredths / 100 } });
  }));
  assertEquals(parseBitSpec("mixed"), { kind: "mixed", text: "mixed", budget: { kind: "bits", most: 3 } });
});

Deno.test("parseBitSpecs() expands ranges, splits lists and drops repetitions", () => {
  assertEquals(texts(parseBitSpecs("2-8")), ["2", "3", "4", "5", "6", "7", "8"]);
  assertEquals(texts(parseBitSpecs("2,3, mixed@3")), ["2", "3", "mixed@3"]);
  assertEquals(texts(parseBitSpecs("16,3-4,4,w4a4,3")), ["16", "3", "4", "w4a4"]);
  const element = fc.oneof(weights.map(String), fc.constantFrom("mixed", "w4a4", "w4kv8"));
  fc.assert(fc.property(fc.array(element, { minLength: 1 }), (list) => {
    assertEquals(texts(parseBitSpecs(list.join(","))), [...new Set(list)]);
  }));
});

Deno.test("parseBitSpecs() refuses every other text in one line that names the forms", () => {
  const wrong = [
    "",
    ",",
    "4,",
    "1",
    "9",
    "0",
    "04",
    "w04",
    "-4",
    "4.0",
    "8-2",
    "1-8",
    "2-9",
    "w",
    "w9",
    "w4a",
    "w4a3",
    "w4a2",
    "w4kv1",
    "a4",
    "kv4",
    "w4kv4a4",
  ];
  for (
    const text of [
      ...wrong,
      "W4A4",
      "mixed@",
      "mixed@1.99",
      "mixed@8.01",
      "mixed@x",
      "mixed@3.",
      "mixed3",
      "4 4",
      "four",
    ]
  ) {
    assertThrows(() => parseBitSpecs(text), UserError, "Expected a bit specification but found ");
  }
  fc.assert(fc.property(fc.string(), (text) => {
    try {
      for (const spec of parseBitSpecs(text)) assert(spec.kind === "mixed" || spec.weights >= 2);
    } catch (error) {
      assert(error instanceof UserError && !error.message.includes("\n") && error.message.includes('use "4"'));
    }
  }));
  assertThrows(() => parseBitSpec("2-3"), UserError, 'Expected one bit specification but found the 2 of "2-3"');
});

Deno.test("configOf() gives every site the width of its role", () => {
  assertEquals(configOf(parseBitSpec("w3a5kv2"), SITES), {
    "up.weight": 3,
    "up.input": 5,
    key: 2,
    value: 2,
    "down.weight": 3,
  });
  assertEquals(configOf(parseBitSpec("16"), SITES), {
    "up.weight": 16,
    "up.input": 16,
    key: 16,
    value: 16,
    "down.weight": 16,
  });
  fc.assert(fc.property(weights, (w) => assertEquals(meanBits(configOf(parseBitSpec(`${w}`), SITES), SITES), w)));
});

Deno.test("configOf() refuses what a model has no quantizers for", () => {
  const bare = SITES.filter(({ role }) => role === "weight");
  assertThrows(
    () => configOf(parseBitSpec("w4a4"), bare),
    UserError,
    'quantizers of activations for "w4a4" but found none',
  );
  assertThrows(
    () => configOf(parseBitSpec("w4kv4"), bare),
    UserError,
    'cached keys and values for "w4kv4" but found none',
  );
  assertEquals(configOf(parseBitSpec("w4a16kv16"), bare), { "up.weight": 4, "down.weight": 4 });
});

Deno.test("configOf() takes the largest point of the frontier within the budget", () => {
  const widths = (text: string) => {
    const config = configOf(parseBitSpec(text), SITES, FRONTIER);
    assertEquals([config["up.input"], config.key, config.value], [16, 16, 16]);
    return `${config["down.weight"]}${config["up.weight"]}`;
  };
  assertEquals(["mixed@2", "mixed@2.2", "mixed@2.25", "mixed", "mixed@4.9", "mixed@8"].map(widths), [
    "22",
    "22",
    "32",
    "33",
    "33",
    "84",
  ]);
  fc.assert(fc.property(fc.integer({ min: 200, max: 800 }), (hundredths) => {
    const spec = parseBitSpec(`mixed@${hundredths / 100}`), bits = meanBits(configOf(spec, SITES, FRONTIER), SITES);
    assert(bits <= hundredths / 100 + 1e-6);
    assert(FRONTIER.points.every((point) => point.meanBits <= bits + 1e-9 || point.meanBits > hundredths / 100));
  }));
  // Of 20 and 60 weights 3 and 2 bits are 2.25 per weight, and 2.5 per site.
  const perSite = { ...FRONTIER, countsSites: true },
    chosen = (text: string, from: Frontier) => configOf(parseBitSpec(text), SITES, from)["down.weight"];
  assertEquals([chosen("mixed@2.4", FRONTIER), chosen("mixed@2.4", perSite), chosen("mixed@2.5", perSite)], [3, 2, 3]);
  assertThrows(() => configOf(parseBitSpec("mixed"), SITES), UserError, 'allocated bits for "mixed" but found none');
  const rich = { ...FRONTIER, points: FRONTIER.points.slice(2) };
  assertThrows(
    () => configOf(parseBitSpec("mixed@2.5"), SITES, rich),
    UserError,
    'at least 3.00 mean bits, the least this model has, but found "mixed@2.5"; use "mixed@3.00"',
  );
});

Deno.test("configOf() takes refined mixtures where they are what was measured, and not with pins or other activations", () => {
  const refined = [{ widths: "32", loss: 2, meanBits: 2.25 }];
  const widths = (text: string, frontier: Frontier, ...pins: readonly string[]) => {
    const config = configOf(withPins([parseBitSpec(text)], pins.map(parsePin))[0] as BitSpec, SITES, frontier);
    return `${config["down.weight"]}${config["up.weight"]}`;
  };
  // It is better than 3 bits everywhere by now.
  const weightsAlone = { ...FRONTIER, refined };
  assertEquals(["mixed", "mixed@3kv4", "mixed@8"].map((text) => widths(text, weightsAlone)), ["32", "32", "84"]);
  assertEquals([widths("mixed@3a8", weightsAlone), widths("mixed", weightsAlone, "up.input=8")], ["33", "33"]);
  const both = { ...weightsAlone, activations: true };
  assertEquals(["mixed@3aw", "mixed@3a8", "mixed"].map((text) => widths(text, both)), ["32", "33", "33"]);
});

Deno.test("weightBytes() counts codes, scales and zero points", () => {
  const groupSizes = { 2: 4, 3: -1, 4: -1, 5: -1, 6: -1, 7: -1, 8: -1 };
  const bytes = (text: string) => weightBytes(configOf(parseBitSpec(text), SITES), SITES, { groupSizes });
  // 80 weights; at 4 bits a scale and a zero point for each of 15 rows, at 2 bits for 2 groups in each row of 6 columns.
  assertEquals(bytes("4"), Math.ceil((80 * 4 + 15 * 20) / 8));
  assertEquals(bytes("2"), Math.ceil((80 * 2 + 25 * 18) / 8));
  assertEquals(bytes("16"), 160);
  assertEquals(bytes("w4a4kv4"), bytes("4"), "activations and caches are not stored");
  assertAlmostEquals(meanBits({ "up.weight": 2 }, SITES), (60 * 2 + 20 * 16) / 80);
});

Deno.test("budgets can be sizes of a file or of memory, everything that is not quantized included", () => {
  const groupSizes = { 2: -1, 3: -1, 4: -1, 5: -1, 6: -1, 7: -1, 8: -1 },
    size = { groupSizes, unquantized: { file: 200, memory: 400 } };
  const chosen = (text: string, spec = parseBitSpec(text)) => configOf(spec, SITES, FRONTIER, size);
  const fileBytes = (text: string) => weightBytes(chosen(text), SITES, size) + 200;
  const all = FRONTIER.points.map(({ widths }) => ({
    "down.weight": Number(widths[FRONTIER.sites.indexOf("down.weight")]),
    "up.weight": Number(widths[FRONTIER.sites.indexOf("up.weight")]),
  }));
  const sizes = all.map((config) => weightBytes(config, SITES, size) + 200);
  for (const [i, bytes] of sizes.entries()) {
    assertEquals(fileBytes(`mixed@${bytes}B`), bytes);
    if (i > 0) assertEquals(fileBytes(`mixed@${bytes - 1}B`), sizes[i - 1]);
  }
  assertEquals(chosen("mixed@1GB"), chosen("mixed@8"));
  // In memory scales and zero points are f32, and so is what is not quantized.
  const memory = weightBytes(chosen("mixed@2"), SITES, size, "memory") + 400;
  assertEquals(chosen(`mixed@${memory}B/memory`), chosen("mixed@2"));
  assertThrows(
    () => chosen(`mixed@${memory - 1}B/memory`),
    UserError,
    `at least ${memory} bytes, the least this model has`,
  );
  assertEquals(
    ["mixed@1.5KiB", "mixed@2MB/file", "mixed@3GiB/memory"].map((text) => parseBitSpec(text)).map((spec) =>
      spec.kind === "mixed" && spec.budget
    ),
    [
      { kind: "bytes", most: 1536, of: "file" },
      { kind: "bytes", most: 2e6, of: "file" },
      { kind: "bytes", most: 3 * 2 ** 30, of: "memory" },
    ],
  );
  for (const text of ["mixed@", "mixed@0MB", "mixed@3TB", "mixed@3/memory", "mixed@3MB/disk", "mixed@-3MB"]) {
    assertThrows(() => parseBitSpec(text), UserError, "Expected a bit specification");
  }
});

Deno.test("pins win over every width, and budgets are kept by the rest", () => {
  const pinned = (text: string, ...pins: readonly string[]) =>
    configOf(withPins([parseBitSpec(text)], pins.map(parsePin))[0] as BitSpec, SITES, FRONTIER);
  assertEquals(pinned("2", "up.*=8")["up.weight"], 8);
  assertEquals(pinned("w4a4", "*.input=8", "up.input=6")["up.input"], 6, "later pins win");
  assertEquals(pinned("2", "up.*=8")["up.input"], 16, "what the setting does not quantize stays in full precision");
  assertEquals(pinned("w4a8", "up.*=3"), { ...pinned("w4a8"), "up.weight": 3, "up.input": 4 });
  assertEquals(pinned("2", "up.input=8")["up.input"], 8, "but where it is meant");
  assertEquals(pinned("16", "up.*=8")["up.weight"], 16, "what others are compared with stays");
  for (const hundredths of [250, 300, 450, 700]) {
    const config = pinned(`mixed@${hundredths / 100}`, "down.weight=2");
    assertEquals(config["down.weight"], 2);
    assert(meanBits(config, SITES) <= hundredths / 100 + 1e-6);
  }
  assertThrows(() => pinned("mixed@2", "down.weight=8"), UserError, "Expected a budget of at least");
  assertThrows(
    () => pinned("4", "dwn.*=8"),
    UserError,
    'Expected a pattern of site names but found "dwn.*", which matches none',
  );
  for (const text of ["layers.*", "=8", "a=9", "a=x", "a="]) {
    assertThrows(() => parsePin(text), UserError, "PATTERN=WIDTH");
  }
});

Deno.test("mixtures can quantize activations, too: to one width, or as wide as the widest weight that reads them", () => {
  const budget = { kind: "bits", most: 3 } as const;
  assertEquals(parseBitSpec("mixed@3a6kv8"), { kind: "mixed", text: "mixed@3a6kv8", budget, activations: 6, cache: 8 });
  assertEquals(parseBitSpec("mixed@3aw"), { kind: "mixed", text: "mixed@3aw", budget, activations: "weights" });
  assertEquals(parseBitSpec("mixedkv2"), { kind: "mixed", text: "mixedkv2", budget, cache: 2 });
  for (const text of ["mixed@3a3", "mixed@3a9", "mixed@a4", "mixed@3kv1", "mixed@3kv8a4", "mixed@3awkv"]) {
    assertThrows(() => parseBitSpec(text), UserError, "Expected a bit specification");
  }
  const widths = (text: string) => configOf(parseBitSpec(text), SITES, FRONTIER);
  const weights = { "up.weight": 2, "down.weight": 3 };
  assertEquals(widths("mixed@2.25a6"), { ...weights, "up.input": 6, key: 16, value: 16 });
  // Activations have at least four bits.
  assertEquals(widths("mixed@2.25awkv3"), { ...weights, "up.input": 4, key: 3, value: 3 });
  const pinned = withPins([parseBitSpec("mixed@8aw")], [parsePin("up.weight=7")]);
  assertEquals(configOf(pinned[0] as BitSpec, SITES, FRONTIER)["up.input"], 7);
  const alone = SITES.filter(({ role }) => role === "weight");
  assertThrows(() => configOf(parseBitSpec("mixed@3aw"), alone, FRONTIER), UserError, "quantizers of activations");
});

Deno.test("modelSites() knows which weights read an activation", () => {
  const sites = modelSites(elasticModule(decoderModule(VARIANTS["tied, grouped queries"]), tinyRecipe("activations")));
  const readers = Object.fromEntries(
    sites.flatMap(({ name, role, readers }) => role === "activation" ? [[name, readers]] : []),
  );
  assertEquals(readers["layers.0.attention.input"], [
    "layers.0.attention.query.weight",
    "layers.0.attention.key.weight",
    "layers.0.attention.value.weight",
  ]);
  assertEquals(readers["layers.1.mlp.down.input"], ["layers.1.mlp.down.weight"]);
  assertEquals(
    new Set(Object.values(readers).flat()),
    new Set(sites.filter(({ role }) => role === "weight").map(({ name }) => name)),
  );
});
