/** A compilation that was killed goes on where it was, to the same bytes; the number of threads changes nothing. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { openWasm } from "../../backends/wasm/backend.ts";
import { readTexts } from "../../compiler/frontends/dataset.ts";
import { openArtifact } from "../../compiler/artifact/artifact.ts";
import { localFolder } from "../../compiler/frontends/source.ts";
import { UserError } from "../../ir/errors.ts";
import { type CompileEvent, compileModel, type CompileModelOptions } from "../../runtime/compile_model.ts";
import { countingBackend } from "../support/counting_backend.ts";
import { namesIn, ownLines, runCompile, tinyModel } from "./tiny_model.ts";

interface Place {
  readonly root: string;
  readonly model: string;
}

async function compileTo(
  { model, root }: Place,
  out: string,
  options: Partial<CompileModelOptions> & { readonly threads?: number } = {},
) {
  const { threads = 1, ...others } = options;
  await using backend = await openWasm({ threads });
  const calibration = await readTexts(`${model}/calibration.jsonl`);
  await compileModel({
    model: await localFolder(model),
    backend,
    calibration,
    out: `${root}/${out}`,
    settings: { epochs: 2 },
    ...others,
  });
}

const bytesOf = async ({ root }: Place, out: string): Promise<string> =>
  new Uint8Array(await crypto.subtle.digest("SHA-256", await Deno.readFile(`${root}/${out}/model.safetensors`)))
    .toHex();

/** That the loss curves of the stopped compilation are those of the whole one, as data and drawn; returns the data. */
async function assertEqualLosses({ root }: Place): Promise<string> {
  const [data] = await Promise.all(["loss.jsonl", "loss.svg"].map(async (file) => {
    const whole = await Deno.readTextFile(`${root}/whole/${file}`);
    assertEquals(await Deno.readTextFile(`${root}/stopped/${file}`), whole);
    return whole;
  }));
  return data ?? "";
}

/** Throws at the first step of a block, as if somebody pulled the plug. */
const stopAt = (block: number, kind: CompileEvent["kind"] = "calibration") => (event: CompileEvent) => {
  if (event.kind === kind && "progress" in event && event.progress.block === block) throw new Error("stopped");
};

Deno.test("a stopped compilation goes on from its finished blocks to the same bytes", async () => {
  await using place = await tinyModel();
  await compileTo(place, "whole");
  await assertRejects(() => compileTo(place, "stopped", { report: stopAt(1, "rehearsal") }), Error, "stopped");
  await assertRejects(() => compileTo(place, "stopped", { report: stopAt(1) }), Error, "stopped");
  const calls = ["call-0000.safetensors", "call-0001.safetensors", "fingerprint.json", "rehearsal"];
  assertEquals(await namesIn(`${place.root}/stopped/.calibration`), calls);
  assertEquals((await namesIn(`${place.root}/stopped`)).includes("model.safetensors"), false);

  const blocks = new Set<number>(), notes: string[] = [];
  await compileTo(place, "stopped", {
    report: (event) => {
      if (event.kind === "calibration") blocks.add(event.progress.block);
      if (event.kind === "note") notes.push(event.text);
    },
  });
  assertEquals([...blocks], [1]);
  assert(notes.includes("Going on from an interrupted run: 2 of 4 calls are finished"), notes.join("\n"));
  assertEquals(await bytesOf(place, "stopped"), await bytesOf(place, "whole"));
  await assertEqualLosses(place);
  assertEquals((await namesIn(`${place.root}/stopped`)).includes(".calibration"), false);
});

Deno.test("a mixture that was being refined goes on from its finished blocks to the same bytes, whatever was asked before", async () => {
  await using place = await tinyModel();
  const settings = { epochs: 2, refine: 2 };
  await compileTo(place, "whole", { bits: "mixed@3", settings });
  const { description, names } = await openArtifact(await localFolder(`${place.root}/whole`));
  assert((description.refined?.length ?? 0) > 0, "a refined mixture");
  assert(names.some((name) => name.startsWith("refined.0.layers.1.")), names.join("\n"));
  for (const bits of ["mixed@2.5", "mixed@3"]) {
    const stop = () => compileTo(place, "stopped", { bits, settings, report: stopAt(1, "refinement") });
    await assertRejects(stop, Error, "stopped");
  }
  // What all widths have learned stays of use with other settings of what comes behind it, and so does what has learned with these.
  const shorter = { bits: "mixed@3", settings: { epochs: 2, refine: 1 }, report: stopAt(0, "refinement") };
  const { message } = await assertRejects(() => compileTo(place, "stopped", shorter), Error);
  assertEquals(message, "stopped");
  /** Goes on; returns the blocks that learn, of the first of all mixtures and of the last, which is stopped or not. */
  const goOn = async (last?: "stop") => {
    const learned = { first: new Set<number>(), last: new Set<number>() };
    const report = (event: CompileEvent) => {
      if (event.kind !== "refinement") return;
      const { done, all, progress: { block } } = event;
      if (done === 0) learned.first.add(block);
      if (done === all - 1) learned.last.add(block);
      if (last && done === all - 1) stopAt(1, "refinement")(event);
    };
    const run = compileTo(place, "stopped", { bits: "mixed@3", settings, report });
    await (last ? assertRejects(() => run, Error, "stopped") : run);
    return learned;
  };
  assertEquals(await goOn("stop"), { first: new Set([1]), last: new Set([0, 1]) });
  assertEquals(await goOn(), { first: new Set(), last: new Set([1]) });
  assertEquals(await bytesOf(place, "stopped"), await bytesOf(place, "whole"));
  const lines = (await assertEqualLosses(place)).trimEnd().split("\n").map((line) => JSON.parse(line));
  // What competes for the budget learns first, then the best of it to the end.
  assertEquals([...new Set(lines.map(({ stage }) => stage))], ["rehearsal", undefined, "race", "refinement"]);
  const named = lines.filter(({ stage }) => stage === "race" || stage === "refinement");
  assertEquals(new Set(named.map(({ mixture }) => mixture)), new Set(["mixed@3"]));
  const candidates = (of: string) =>
    new Set(named.filter(({ stage }) => stage === of).map(({ candidate }) => candidate));
  assert(candidates("race").size > 1 && candidates("refinement").size === 1, JSON.stringify(named));
  assert(candidates("refinement").isSubsetOf(candidates("race")), JSON.stringify(named));
  const svg = await Deno.readTextFile(`${place.root}/whole/loss.svg`);
  assertEquals(svg.match(/>(all widths|mixed@[^<]*)</g), [">all widths<", ">mixed@3<"]);
});

Deno.test("a stopped calibration of rotated blocks with scaled columns goes on to the same bytes", async () => {
  await using place = await tinyModel();
  const options = { bits: "w8a8", settings: { epochs: 1 } };
  await compileTo(place, "whole", options);
  await assertRejects(() => compileTo(place, "stopped", { ...options, report: stopAt(1) }), Error, "stopped");
  await compileTo(place, "stopped", options);
  assertEquals(await bytesOf(place, "stopped"), await bytesOf(place, "whole"));
});

Deno.test("finished blocks of other settings are refused, by name", async () => {
  await using place = await tinyModel();
  await assertRejects(() => compileTo(place, "out", { report: stopAt(1) }), Error, "stopped");
  const error = await assertRejects(() => compileTo(place, "out", { seed: 1, settings: { epochs: 3 } }), UserError);
  assert(error.message.includes("found one of another settings, recipe, seed"), error.message);
  const refused = async (what: string, options: Partial<CompileModelOptions>) => {
    const { message } = await assertRejects(() => compileTo(place, "out", options), UserError);
    assert(message.includes(`found one of another ${what}, in`), `${what}: ${message}`);
  };
  await refused("allocation", { tie: true });
  await refused("allocation", { weighting: "sites" });
  await refused("data", { calibration: await readTexts(`${place.model}/text.txt`) });
  const config = `${place.model}/config.json`, text = await Deno.readTextFile(config);
  await Deno.writeTextFile(config, text.replace("10000", "20000"));
  await refused("configuration", {});
  assertEquals((await namesIn(`${place.root}/out/.calibration`)).length, 4);
});

Deno.test("a compilation that is stopped anywhere leaves no tensor on its backend", async () => {
  await using place = await tinyModel();
  const { backend, alive } = countingBackend(await openWasm());
  const calibration = await readTexts(`${place.model}/calibration.jsonl`), model = await localFolder(place.model);
  for (const kind of ["rehearsal", "calibration", "sensitivity", "allocation", "refinement", "result"] as const) {
    // Behind the first report, where something is under way.
    let reports = 0;
    const report = (event: CompileEvent) => {
      if (event.kind === kind && ++reports === 2) throw new Error("stopped");
    };
    const options = { model, backend, calibration, bits: "mixed@2.5,4", settings: { epochs: 2 }, report };
    await assertRejects(() => compileModel(options), Error, "stopped", kind);
    assertEquals(alive.size, 0, kind);
  }
  await backend[Symbol.asyncDispose]();
});

Deno.test("a killed process leaves what the next one goes on from", async () => {
  await using place = await tinyModel();
  const { model, root } = place, out = `${root}/out`;
  const args = [
    model,
    "--calib",
    `${model}/calibration.jsonl`,
    "--out",
    out,
    "--epochs",
    "120",
    "--device",
    "wasm",
    "--threads",
    "1",
  ];
  const script = new URL("../../compile.ts", import.meta.url).pathname;
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--no-check", "-P", script, ...args],
    cwd: new URL("../../", import.meta.url),
    stdout: "null",
    stderr: "null",
  }).spawn();
  while (!(await namesIn(`${out}/.calibration`)).includes("call-0001.safetensors")) {
    await new Promise((done) => setTimeout(done, 10));
  }
  process.kill("SIGKILL");
  assertEquals((await process.status).success, false);
  const resumed = await runCompile(args);
  assertEquals(resumed.code, 0, resumed.stderr);
  assert(
    ownLines(resumed).some((line) => /^Going on from an interrupted run: [23] of 4 calls/.test(line)),
    resumed.stderr,
  );
  assertEquals((await namesIn(out)).includes(".calibration"), false);
  assertEquals((await runCompile([...args.with(4, `${root}/again`)])).code, 0);
  assertEquals(await bytesOf(place, "out"), await bytesOf(place, "again"));
});

Deno.test("one and two threads, and another folder, give the same artifact; another seed does not", async () => {
  await using place = await tinyModel();
  await compileTo(place, "one");
  await compileTo(place, "two", { threads: 2 });
  await compileTo(place, "seed", { seed: 1 });
  assertEquals(await bytesOf(place, "two"), await bytesOf(place, "one"));
  assert(await bytesOf(place, "seed") !== await bytesOf(place, "one"));
});
