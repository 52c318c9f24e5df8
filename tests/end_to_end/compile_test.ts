/** The command line from a checkpoint to its artifact and back, on a tiny model, in processes of its own. */
import { assert, assertAlmostEquals, assertEquals, assertMatch } from "@std/assert";
import { openArtifact } from "../../compiler/artifact/artifact.ts";
import { openSafetensors } from "../../compiler/frontends/safetensors.ts";
import { fileSource, localFolder } from "../../compiler/frontends/source.ts";
import type { ResultRow } from "../../runtime/result_row.ts";
import { namesIn, ownLines, runCompile, tinyModel, type TinyOptions } from "./tiny_model.ts";

const FAST = ["--epochs", "1", "--device", "wasm", "--threads", "1"];

const rowsOf = (stdout: string): readonly ResultRow[] => stdout.trimEnd().split("\n").map((line) => JSON.parse(line));

function rowAt(rows: readonly ResultRow[], bits: string): ResultRow {
  const row = rows.find((row) => row.bits === bits);
  if (row) return row;
  throw new Error(`Expected a row for ${bits} but found ${rows.map((row) => row.bits).join(", ")}`);
}

Deno.test("compile saves an artifact that eval, run and inspect understand", async (t) => {
  await using place = await tinyModel();
  const { model, root } = place, out = `${root}/out`, data = ["--data", `${model}/calibration.jsonl`];
  const texts = ["--calib", `${model}/calibration.jsonl`, "--eval", `${model}/calibration.jsonl`];
  const compiled = await runCompile([model, ...texts, "--out", out, "--json", ...FAST]);
  assertEquals(compiled.code, 0, compiled.stderr);
  const rows = rowsOf(compiled.stdout);
  assertEquals(rows.map(({ bits }) => bits), ["16", "8", "7", "6", "5", "4", "3", "2", "mixed"]);
  for (const row of rows) {
    assertEquals(Object.keys(row), [
      "bits",
      "meanBits",
      "bytes",
      "totalBytes",
      "perplexity",
      "perplexityError",
      "kl",
      "tokens",
      "seconds",
    ]);
    assert(Object.values(row).every((value) => typeof value === "string" || Number.isFinite(value)), row.bits);
  }
  assert((rows.at(-1)?.meanBits ?? 4) <= 3);
  assertEquals(ownLines(compiled).at(-1), `Saved to ${out}`);
  const [, rotation, memory] = ownLines(compiled);
  assertMatch(
    rotation ?? "",
    /^(Rotated|Not rotated): rotations give \d\.\d\d times the divergence of rounding to nearest at 3 to 5 bits$/,
  );
  assertMatch(
    memory ?? "",
    /^memory: planned peak \d+\.\d MiB \(calibration \d+\.\d MiB with \d+\.\d MiB on the host, measuring \d+\.\d MiB\)$/,
  );

  await t.step("the folder holds everything, and nothing of the calibration", async () => {
    const names = [
      "config.json",
      "kernels",
      "loss.jsonl",
      "loss.svg",
      "model.safetensors",
      "plan.json",
      "tokenizer.json",
      "tokenizer_config.json",
    ];
    assertEquals(await namesIn(out), names);
    for (const file of ["config.json", "tokenizer.json", "tokenizer_config.json"]) {
      assertEquals(await Deno.readTextFile(`${out}/${file}`), await Deno.readTextFile(`${model}/${file}`));
    }
  });
  await t.step("total bytes are what budgets in bytes count", async () => {
    const { totalBytes } = rowAt(rows, "2");
    const fits = await runCompile([
      "eval",
      out,
      ...data,
      "--json",
      "--bits",
      `mixed@${totalBytes}B`,
      "--device",
      "wasm",
    ]);
    assertEquals(rowsOf(fits.stdout).map((row) => row.totalBytes), [totalBytes], fits.stderr);
    // What was planned when it was compiled, and what is run: one count for both.
    const small = await runCompile([
      model,
      ...texts,
      "--out",
      `${root}/small`,
      "--json",
      "--bits",
      `mixed@${totalBytes}B`,
      ...FAST,
    ]);
    const [setting] = JSON.parse(await Deno.readTextFile(`${root}/small/plan.json`)).settings;
    assertEquals(rowsOf(small.stdout).map((row) => row.bytes).at(-1), setting.bytes, small.stderr);
    const less = await runCompile(["eval", out, ...data, "--bits", `mixed@${totalBytes - 1}B`, "--device", "wasm"]);
    assertEquals(less.code, 2);
    assertMatch(ownLines(less).at(-1) ?? "", new RegExp(`at least ${totalBytes} bytes`));
  });
  await t.step("plan.json names the widths of all sites, and every kernel has its file", async () => {
    const plan = JSON.parse(await Deno.readTextFile(`${out}/plan.json`)), [setting] = plan.settings;
    assertEquals(setting.bits, "mixed");
    assertEquals(setting.meanBits, rows.at(-1)?.meanBits);
    assertEquals(setting.sites.length, 14);
    const files: string[] = plan.kernels.map(({ name }: { name: string }) => `${name}.wgsl`);
    assertEquals(await namesIn(`${out}/kernels`), files.toSorted());
    const used = new Set(
      setting.programs.flatMap(({ kernels }: { kernels: string[] }) => kernels.map((name) => `${name}.wgsl`)),
    );
    assertEquals([...used].sort(), files.toSorted());
    for (const file of files) {
      assertMatch(await Deno.readTextFile(`${out}/kernels/${file}`), /@compute @workgroup_size/);
    }
  });
  await t.step("any reader of safetensors finds the master of a weight", async () => {
    const file = await openSafetensors(await fileSource(`${out}/model.safetensors`));
    assertEquals(file.tensors.get("layers.0.mlp.down.weight.master.codes")?.dtype, "I8");
    const { description } = await openArtifact(await localFolder(out));
    assertEquals(description.provenance.seed, 0);
    assertEquals(description.provenance.dataSha256?.length, 64);
  });
  await t.step("eval of the artifact against the checkpoint repeats the table", async () => {
    const bits = "8,2,mixed,4",
      evaluated = await runCompile(["eval", out, ...data, "--bits", bits, "--reference", model, "--json"]);
    assertEquals(evaluated.code, 0, evaluated.stderr);
    assertMatch(evaluated.stderr, /^memory: planned peak \S+ MiB \(weights of a call \S+ MiB, hidden states /m);
    for (const row of rowsOf(evaluated.stdout)) {
      const same = rows.find((other) => other.bits === row.bits);
      assertEquals([row.meanBits, row.bytes, row.tokens], [same?.meanBits, same?.bytes, same?.tokens]);
      assertAlmostEquals(row.perplexity, same?.perplexity ?? 0, 1e-3 * row.perplexity);
      assertAlmostEquals(row.kl, same?.kl ?? 0, 1e-4);
    }
  });
  await t.step("eval of the checkpoint takes 16 for full precision", async () => {
    const evaluated = await runCompile(["eval", model, ...data, "--bits", "16,w8a8", "--json"]);
    const [full, quantized] = rowsOf(evaluated.stdout);
    assertAlmostEquals(full?.perplexity ?? 0, rows[0]?.perplexity ?? NaN, 1e-3);
    assertAlmostEquals(full?.kl ?? NaN, 0, 1e-5);
    assert((quantized?.kl ?? 0) > 0);
  });
  await t.step("run continues a prompt, at any budget of the frontier", async () => {
    const args = ["--prompt", "the cat", "--bits", "mixed@2.5", "--max-tokens", "5", "--device", "wasm"];
    const ran = await runCompile(["run", out, ...args]);
    assertEquals(ran.code, 0, ran.stderr);
    assertMatch(ran.stdout, /^the cat.*\n$/);
    assertMatch(ran.stderr, /^memory: planned peak \S+ MiB \(weights \S+ MiB, cache \S+ MiB, programs \S+ MiB\)$/m);
    const json = await runCompile(["run", out, ...args, "--json"]), { prompt, text, bits } = JSON.parse(json.stdout);
    assertEquals([`${prompt}${text}\n`, bits], [ran.stdout, "mixed@2.5"]);
  });
  await t.step("inspect prints one kernel as the folder has it", async () => {
    const listed = await runCompile(["inspect", out, "--bits", "mixed", "--kernels"]),
      [, name] = /\n {2}(dot_\w+), dot\n/.exec(listed.stdout) ?? [];
    const wgsl = await runCompile(["inspect", out, "--bits", "mixed", "--kernel", name ?? "", "--wgsl"]);
    assertEquals(wgsl.stdout, await Deno.readTextFile(`${out}/kernels/${name}.wgsl`));
  });
});

Deno.test("compile w4a4 calibrates 4 to 8 bits with activations, and says that nothing is saved", async () => {
  await using place = await tinyModel();
  const { model } = place;
  const compiled = await runCompile([model, "--bits", "w4a4,w4a8kv4", "--calib", `${model}/text.txt`, ...FAST]);
  assertEquals(compiled.code, 0, compiled.stderr);
  const settings = compiled.stdout.trimEnd().split("\n").map((line) => line.split(" ")[0]);
  assertEquals(settings, ["bits", "16", "w8a8", "w7a7", "w6a6", "w5a5", "w4a4", "w4a8kv4"]);
  assertEquals(ownLines(compiled).at(-1), "Nothing saved; to save, give --out DIR");
  assert(ownLines(compiled).some((line) => /^Evaluating on the last tenth of .*text\.txt, held out/.test(line)));
});

Deno.test("without any permission the bundled model runs, is inspected, and help is printed", async () => {
  const ran = await runCompile([
    "run",
    "--prompt",
    "In a small town",
    "--bits",
    "4",
    "--max-tokens",
    "8",
    "--device",
    "wasm",
    "--threads",
    "2",
  ], []);
  assertEquals(ran.code, 0, ran.stderr);
  assertMatch(ran.stdout, /^In a small town there was a \w+/);
  const inspected = await runCompile(["inspect", "--plan", "--bits", "2"], []);
  assertMatch(inspected.stdout, /^embed, 1 token, context 256/);
  const help = await runCompile(["--help"], []);
  assertEquals([help.code, help.stderr], [0, ""]);
  assertMatch(help.stdout, /--bits SPEC/);
});

const VARIANTS: Readonly<Record<string, TinyOptions & { readonly args?: readonly string[] }>> = {
  "Qwen2, with biases, untied": {
    config: { model_type: "qwen2", architectures: ["Qwen2ForCausalLM"], tie_word_embeddings: false },
  },
  "LLaMA 3, with scaled rope, biases everywhere, heads wider than the model": {
    config: {
      attention_bias: true,
      mlp_bias: true,
      head_dim: 12,
      rope_scaling: {
        rope_type: "llama3",
        factor: 4,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 16,
      },
    },
  },
  "LLaMA with a head of its own and weights kept as halves": {
    config: { tie_word_embeddings: false },
    args: ["--master", "fp16"],
  },
  "LLaMA with a head of its own, as published": {
    config: { tie_word_embeddings: false },
    args: ["--recipe", "quept"],
  },
  "Mistral, of two bf16 shards": {
    config: { model_type: "mistral", architectures: ["MistralForCausalLM"], sliding_window: null },
    sharded: true,
  },
};

for (const [name, { args = [], ...options }] of Object.entries(VARIANTS)) {
  Deno.test(`compile takes ${name}`, async () => {
    await using place = await tinyModel({ ...options, consistent: true });
    const { model, root } = place, texts = ["--calib", `${model}/calibration.jsonl`, "--eval", `${model}/text.txt`];
    const given = ["--bits", "w4a4", ...args, ...texts, "--out", `${root}/out`, "--json", ...FAST];
    const compiled = await runCompile([model, ...given]);
    assertEquals(compiled.code, 0, compiled.stderr);
    const rows = rowsOf(compiled.stdout),
      full = rowAt(rows, "16"),
      w8a8 = rowAt(rows, "w8a8"),
      w4a4 = rowAt(rows, "w4a4");
    assert(w8a8.kl < w4a4.kl, compiled.stdout);
    assertAlmostEquals(w8a8.perplexity, full.perplexity, 0.1 * full.perplexity);
    const evaluated = await runCompile([
      "eval",
      `${root}/out`,
      "--data",
      `${model}/text.txt`,
      "--bits",
      "w4a4",
      "--reference",
      model,
      "--json",
    ]);
    assertAlmostEquals(
      rowsOf(evaluated.stdout)[0]?.perplexity ?? NaN,
      w4a4.perplexity,
      2e-3 * w4a4.perplexity,
      evaluated.stderr,
    );
  });
}
