/** Mixtures that a compilation is asked for learn on their own, and whoever asks for them again gets what they have learned. */
import { assert, assertEquals } from "@std/assert";
import { createRunner } from "../../backends/runner.ts";
import { openWasm } from "../../backends/wasm/backend.ts";
import { openArtifact } from "../../compiler/artifact/artifact.ts";
import { refinedSet } from "../../compiler/artifact/refined.ts";
import { parseBitSpecs, withPins } from "../../compiler/bit_spec.ts";
import { readTexts } from "../../compiler/frontends/dataset.ts";
import { localFolder } from "../../compiler/frontends/source.ts";
import { parsePin } from "../../compiler/pins.ts";
import { artifactSource } from "../../runtime/artifact_source.ts";
import { compileModel } from "../../runtime/compile_model.ts";
import { configurationOf } from "../../runtime/configuration.ts";
import { tinyModel } from "./tiny_model.ts";

/** Settings that are refined in any case: what no frontier measures. Others are where refining pays, which luck decides here. */
const CASES = {
  "activations as wide as something else": { bits: "mixed@5aw,mixed@5a8", pins: [], sure: "mixed@5a8" },
  "a layer that is pinned": { bits: "mixed@5.5", pins: ["layers.0.*=8"], sure: "mixed@5.5" },
  "a layer in full precision": { bits: "mixed@150KB/memory", pins: ["layers.1.*=16"], sure: "mixed@150KB/memory" },
  "a cache that is quantized, too": { bits: "mixed@5a8kv4", pins: [], sure: "mixed@5a8kv8" },
};

for (const [name, { bits, pins, sure }] of Object.entries(CASES)) {
  Deno.test(`compileModel() refines mixtures with ${name}`, async () => {
    await using place = await tinyModel();
    await using backend = await openWasm({ threads: 1 });
    const kinds = new Set<string>(),
      out = `${place.root}/out`,
      common = {
        model: await localFolder(place.model),
        backend,
        calibration: await readTexts(`${place.model}/calibration.jsonl`),
        bits,
        pins: pins.map(parsePin),
      };
    const { rows } = await compileModel({
      ...common,
      out,
      settings: { epochs: 2, refine: 1 },
      report: ({ kind }) => kinds.add(kind),
    });
    assert(kinds.has("refinement"), [...kinds].join());
    assert(rows.every(({ perplexity }) => Number.isFinite(perplexity)), JSON.stringify(rows));
    // Opening it checks that every set has all its tensors.
    const source = artifactSource(await openArtifact(await localFolder(out)), createRunner(backend));
    const [spec] = withPins(parseBitSpecs(sure), pins.map(parsePin));
    const { settings } = JSON.parse(await Deno.readTextFile(`${out}/plan.json`));
    assert(settings.some(({ refined }: { refined?: number }) => refined === 0), "the plan says what is refined");
    if (!spec) throw new RangeError("Expected a setting");
    assert(refinedSet(configurationOf(source, spec), source.sites, source.refined) !== undefined, sure);
    assertEquals(refinedSet(configurationOf(source, "16"), source.sites, source.refined), undefined);

    const plain = await compileModel({ ...common, settings: { epochs: 2, refine: 0 } });
    assertEquals(plain.artifact.description.refined, undefined);
    assert(!plain.artifact.names.some((tensor) => tensor.startsWith("refined.")));
  });
}
