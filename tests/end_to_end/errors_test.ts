/** Bad input, as a user gives it to the command line: one line on stderr, exit code 2, nothing written. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { rawSafetensors } from "../compiler/frontends/fixtures.ts";
import { namesIn, ownLines, runCompile, tinyModel, type TinyOptions } from "./tiny_model.ts";

interface Case {
  readonly name: string;
  readonly message: RegExp;
  readonly model?: TinyOptions;
  /** Breaks the model's folder. */
  readonly damage?: (model: string) => Promise<void>;
  /** The command line, after `--calib` and `--out` of the usual compilation unless `whole`. */
  readonly args?: (paths: { readonly model: string; readonly root: string }) => readonly string[];
  readonly whole?: boolean;
  readonly permissions?: readonly string[];
}

const usual = ({ model, root }: { readonly model: string; readonly root: string }) => [
  model,
  ...["--calib", `${model}/calibration.jsonl`, "--out", `${root}/out`, "--device", "reference", "--epochs", "1"],
];

const overwrite = (file: string, content: string | Uint8Array) => (model: string) =>
  typeof content === "string"
    ? Deno.writeTextFile(`${model}/${file}`, content)
    : Deno.writeFile(`${model}/${file}`, content);
const weights = (header: string, bytes = 0) =>
  overwrite("model.safetensors", rawSafetensors(header, new Uint8Array(bytes)));
const info = (shape: number[], offsets: number[]) => JSON.stringify({ dtype: "F32", shape, data_offsets: offsets });

const CASES: readonly Case[] = [
  {
    name: "missing folder",
    whole: true,
    args: () => ["no/such/model", "--calib", "x.txt"],
    message: /Cannot read "no\/such\/model": there is no such file or folder/,
  },
  {
    name: "no config.json",
    damage: (model) => Deno.remove(`${model}/config.json`),
    message: /found no config.json; give the folder/,
  },
  { name: "broken config.json", damage: overwrite("config.json", "{"), message: /Cannot parse JSON: .*config\.json/ },
  {
    name: "no tokenizer",
    damage: (model) => Deno.remove(`${model}/tokenizer.json`),
    message: /found no tokenizer.json/,
  },
  {
    name: "no weights",
    damage: (model) => Deno.remove(`${model}/model.safetensors`),
    message: /found neither model.safetensors nor/,
  },
  {
    name: "truncated weights",
    damage: async (model) =>
      await Deno.truncate(`${model}/model.safetensors`, (await Deno.stat(`${model}/model.safetensors`)).size - 9),
    message: /model\.safetensors"; use an intact safetensors file/,
  },
  { name: "empty weights", damage: overwrite("model.safetensors", new Uint8Array()), message: /found 0 bytes/ },
  {
    name: "a header of absurd size",
    damage: overwrite("model.safetensors", new Uint8Array(16).fill(255)),
    message: /Expected a header that fits/,
  },
  {
    name: "offsets beyond the file",
    damage: weights(`{"a":${info([4], [0, 16])}}`, 8),
    message: /data_offsets within the file's 8 bytes/,
  },
  {
    name: "overlapping tensors",
    damage: weights(`{"a":${info([2], [0, 8])},"b":${info([2], [4, 12])}}`, 12),
    message: /found an overlap/,
  },
  {
    name: "an absurd shape",
    damage: weights(`{"a":${info([2 ** 50, 2 ** 50], [0, 16])}}`, 16),
    message: /representable size/,
  },
  {
    name: "duplicate keys",
    damage: weights(`{"a":${info([1], [0, 4])},"a":${info([1], [0, 4])}}`, 4),
    message: /found "a" twice/,
  },
  {
    name: "NaN weights",
    model: { change: (name, values) => name.includes("layers.1.mlp.up") ? values.with(3, NaN) : values },
    message: /Expected finite weights in tensor "model\.layers\.1\.mlp\.up_proj\.weight" but found NaN at position 3/,
  },
  {
    name: "unsupported architecture",
    model: { config: { model_type: "mamba", architectures: ["MambaForCausalLM"] } },
    message: /"model_type" to be a supported model type/,
  },
  {
    name: "unsupported rope type",
    model: { config: { rope_scaling: { rope_type: "yarn", factor: 2 } } },
    message: /rope.*yarn/,
  },
  {
    name: "shape mismatch",
    model: { config: { intermediate_size: 28 } },
    message: /to have shape \[28,16\] but found \[24,16\]/,
  },
  {
    name: "a missing layer",
    model: { config: { num_hidden_layers: 3 } },
    message: /Expected a tensor "model\.layers\.2/,
  },
  {
    name: "a foreign tokenizer",
    model: { config: { vocab_size: 20 } },
    message: /token ids below the model's vocabulary size 20/,
  },
  { name: "an unknown bit spec", args: () => ["--bits", "w9"], message: /Expected a bit specification but found "w9"/ },
  {
    name: "widths without activations",
    args: () => ["--bits", "w2a4", "--track", "activations"],
    message: /Expected 4 to 8 bits per weight .*found "w2a4"/,
  },
  {
    name: "activations beside weights alone",
    args: () => ["--bits", "4,w4a4", "--track", "weights"],
    message: /weights alone beside --track weights but found "w4a4".*leave --track out/,
  },
  {
    name: "a pin of no site",
    args: () => ["--pin", "zzz=8"],
    message: /pattern of site names but found "zzz".*inspect --sites lists them/,
  },
  {
    name: "a size below the least",
    args: () => ["--bits", "mixed@1KB/memory"],
    message: /at least (\d+) bytes, .*\(\d+ of them embeddings, .*found "mixed@1KB\/memory"; use "mixed@\1B\/memory"/,
  },
  {
    name: "a budget below the pins",
    args: () => ["--bits", "mixed@2.5", "--pin", "layers.*.weight=8"],
    message: /at least 8\.00 mean bits/,
  },
  {
    name: "weights of the merge for other groups",
    args: () => ["--set", "inputs=fused", "--set", "lambdas=0.3,0.3,0.4"],
    message: /Expected 5 weights of the merge.*one per bit group, 8,7\/6,5\/4\/3\/2/,
  },
  {
    name: "an infinite rate",
    args: () => ["--set", "clip-rate=Infinity"],
    message: /Expected clip-rate=RATE but found "clip-rate=Infinity"/,
  },
  {
    name: "a context of one token",
    model: { config: { max_position_embeddings: 1 } },
    message: /"max_position_embeddings" to be 2 or more/,
  },
  {
    name: "a budget below the least",
    args: () => ["--bits", "w4a4,mixed@3", "--track", "activations"],
    message: /found "mixed@3"/,
  },
  {
    name: "a pin to a width that the site cannot have",
    args: () => ["--bits", "w4a4", "--pin", "layers.0.*=3"],
    message: /Expected 4, 5, 6, 7, 8 or 16 bits for "layers\.0\..*found 3, in "w4a4" with --pin layers\.0\.\*=3/,
  },
  {
    name: "an empty calibration text",
    whole: true,
    damage: overwrite("empty.txt", " \n"),
    args: ({ model, root }) => [model, "--calib", `${model}/empty.txt`, "--out", `${root}/out`],
    message: /Expected text but found none, in ".*empty\.txt"/,
  },
  {
    name: "a calibration text of another kind",
    whole: true,
    args: ({ model }) => [model, "--calib", `${model}/config.json`],
    message: /Expected a \.txt or \.jsonl file/,
  },
  {
    name: "no calibration text",
    whole: true,
    args: ({ model }) => [model],
    message: /Expected a text to calibrate on but found none; give one with --calib FILE/,
  },
  {
    name: "an output that is a file",
    whole: true,
    args: ({ model }) => [model, "--calib", `${model}/text.txt`, "--out", `${model}/config.json`],
    message: /Cannot write ".*config\.json"/,
  },
  {
    name: "an output inside a file",
    whole: true,
    args: ({ model }) => [model, "--calib", `${model}/text.txt`, "--out", `${model}/config.json/out`],
    message: /Cannot write ".*config\.json\/out"/,
  },
  {
    name: "an output that would overwrite the checkpoint",
    whole: true,
    args: ({ model }) => [model, "--calib", `${model}/text.txt`, "--out", model],
    message: /found the checkpoint in ".*"; give another folder to --out/,
  },
  {
    name: "an unknown option",
    args: () => ["--bit", "4"],
    message: /Expected an option but found "--bit"; use one of --bits,/,
  },
  {
    name: "an option without its value",
    args: () => ["--seed"],
    message: /Expected a value for --seed but found none/,
  },
  { name: "an option twice", args: () => ["--out", "x"], message: /Expected --out once/ },
  {
    name: "a seed that is none",
    args: () => ["--seed", "-1"],
    message: /Expected a whole number of 0 or more for --seed but found "-1"/,
  },
  {
    name: "an unknown device",
    whole: true,
    args: () => ["--device", "tpu"],
    message: /Expected auto, webgpu, dawn, wasm, reference for --device but found "tpu"/,
  },
  { name: "two models", args: ({ model }) => [model], message: /Expected one argument but found also/ },
  {
    name: "no permission to read",
    permissions: [],
    message: /Deno was not given the permission; run with -P or with --allow-/,
  },
  {
    name: "no permission to write",
    whole: true,
    permissions: [],
    args: ({ root }) => ["--out", `${root}/out`],
    message: /Cannot write ".*out": Deno was not given the permission/,
  },
  {
    name: "eval without a text",
    whole: true,
    args: ({ model }) => ["eval", model],
    message: /Expected a text to evaluate on but found none/,
  },
  {
    name: "eval with widths that are none",
    whole: true,
    args: ({ model }) => ["eval", model, "--data", `${model}/text.txt`, "--bits", "16,1"],
    message: /Expected a bit specification but found "1"/,
  },
  {
    name: "eval of a checkpoint at a mixture",
    whole: true,
    args: ({ model }) => ["eval", model, "--data", `${model}/text.txt`, "--bits", "mixed"],
    message: /Expected a model with allocated bits for "mixed" but found none/,
  },
  {
    name: "run without a prompt",
    whole: true,
    args: ({ model }) => ["run", model],
    message: /Expected --prompt but found none/,
  },
  {
    name: "run beyond the context",
    whole: true,
    args: ({ model }) => ["run", model, "--prompt", "a".repeat(40)],
    message: /Expected at most 32 tokens/,
  },
  {
    name: "inspect after no pass",
    whole: true,
    args: ({ model }) => ["inspect", model, "--after", "magic"],
    message: /Expected a pass of the model but found "magic"; use one of start,/,
  },
  {
    name: "inspect of two things",
    whole: true,
    args: ({ model }) => ["inspect", model, "--after", "specialize", "--kernels"],
    message: /Expected one thing to show but found --kernels and --after/,
  },
  {
    name: "inspect of no kernel's text",
    whole: true,
    args: ({ model }) => ["inspect", model, "--wgsl"],
    message: /Expected --kernel NAME beside --wgsl/,
  },
  {
    name: "inspect of no kernel",
    whole: true,
    args: ({ model }) => ["inspect", model, "--kernel", "none"],
    message: /Expected a kernel of the model but found "none"/,
  },
];

async function check({ name, message, model: options, damage, args, whole = false, permissions }: Case): Promise<void> {
  await using place = await tinyModel(options);
  await damage?.(place.model);
  const before = await namesIn(place.model), extra = args?.(place) ?? [];
  const result = await runCompile(whole ? extra : [...usual(place), ...extra], permissions);
  const lines = ownLines(result);
  assertEquals(lines.length, 1, `${name}: expected one line but found\n${result.stderr}`);
  assertMatch(lines[0] ?? "", message, name);
  assert(lines[0]?.startsWith("error: ") && !lines[0].endsWith("."), `${name}: ${lines[0]}`);
  assertEquals(result.code, 2, name);
  assertEquals(result.stdout, "", name);
  assertEquals(await namesIn(place.model), before, `${name}: the model's folder`);
  assertEquals(await namesIn(place.root), ["model"], `${name}: nothing is written`);
}

/** Processes at a time. */
const LANES = 2;

Deno.test("bad input ends with one clear line and exit code 2, and nothing is written", async (t) => {
  const waiting = [...CASES];
  const lane = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const current = next;
      await t.step({
        name: current.name,
        fn: () => check(current),
        sanitizeOps: false,
        sanitizeResources: false,
        sanitizeExit: false,
      });
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
});
