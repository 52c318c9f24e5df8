/** A tiny random model as a Hugging Face folder on disk, and the command line as a user calls it. */
import { type OutputTensor, writeSafetensors } from "../../compiler/artifact/safetensors_writer.ts";
import { parseDecoderConfig } from "../../compiler/frontends/config.ts";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { decoderSource } from "../../compiler/frontends/decoder_source.ts";
import { parametersOf } from "../../ir/module.ts";
import { concreteShape } from "../../ir/types.ts";
import { randomParameters } from "../support/random_decoder.ts";

/** What `config.json` says. */
export const TINY_CONFIG = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 32,
  max_position_embeddings: 32,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  hidden_act: "silu",
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: "float32",
};

/** One token per lower-case letter, and a blank. */
const TOKENIZER = {
  version: "1.0",
  added_tokens: ["<unk>", "<s>", "</s>"].map((content, id) => ({ id, content, special: true, normalized: false })),
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: { type: "Fuse" },
  model: {
    type: "BPE",
    unk_token: "<unk>",
    byte_fallback: false,
    vocab: Object.fromEntries(
      ["<unk>", "<s>", "</s>", " ", ..."abcdefghijklmnopqrstuvwxyz"].map((token, id) => [token, id]),
    ),
    merges: [],
  },
};

/** Texts of some letters each. */
const TEXTS = [
  "the cat sat on a mat",
  "a dog ran to the sea",
  "she had two red hats",
  "we ate fish and figs",
  "he saw a big old oak",
  "it was hot",
];

/** What a test changes about the model. */
export interface TinyOptions {
  readonly config?: Readonly<Record<string, unknown>>;
  /** Whether the weights follow the changed configuration; otherwise they are those of the usual one. */
  readonly consistent?: boolean;
  /** Weights as bf16 in two shards with an index, instead of one file of f32. */
  readonly sharded?: boolean;
  /** Changes the values of a tensor, by its name in the file. */
  readonly change?: (name: string, values: Float32Array) => Float32Array;
}

/** Writes the model, `calibration.jsonl` and `text.txt` to a folder that exists. */
export async function writeTinyModel(
  folder: string,
  { config = {}, consistent = false, sharded = false, change = (_, values) => values }: TinyOptions = {},
): Promise<void> {
  const json = JSON.stringify({ ...TINY_CONFIG, ...config }, null, 1), usual = JSON.stringify(TINY_CONFIG);
  const parsed = parseDecoderConfig(new TextEncoder().encode(consistent ? json : usual), "config.json");
  const module = decoderModule(parsed), load = randomParameters(7), names = decoderSource(parsed);
  const parameters = new Map(
    module.calls.flatMap((call) => [...parametersOf(module, call)]).filter(([name]) => !module.derived[name]),
  );
  const tensors = await Promise.all([...parameters].map(async ([name, type]): Promise<OutputTensor> => {
    const values = change(names(name), Float32Array.from(await load(name, type)));
    const data = () => sharded ? upperHalves(values) : new Uint8Array(values.buffer);
    return { name: names(name), dtype: sharded ? "BF16" : "F32", shape: concreteShape(type.shape), data };
  }));
  if (sharded) await writeShards(folder, tensors);
  else await writeSafetensors(`${folder}/model.safetensors`, tensors, { format: "pt" });
  await Deno.writeTextFile(`${folder}/config.json`, json);
  await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(TOKENIZER));
  await Deno.writeTextFile(
    `${folder}/tokenizer_config.json`,
    JSON.stringify({ bos_token: "<s>", eos_token: "</s>", add_bos_token: true }),
  );
  await Deno.writeTextFile(`${folder}/calibration.jsonl`, TEXTS.map((text) => JSON.stringify({ text })).join("\n"));
  await Deno.writeTextFile(`${folder}/text.txt`, TEXTS.join(" "));
}

async function writeShards(folder: string, tensors: readonly OutputTensor[]): Promise<void> {
  const shards = [tensors.filter((_, i) => i % 2 === 0), tensors.filter((_, i) => i % 2 === 1)],
    places: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    const file = `model-0000${i + 1}-of-00002.safetensors`;
    await writeSafetensors(`${folder}/${file}`, shard, { format: "pt" });
    for (const { name } of shard) places[name] = file;
  }
  await Deno.writeTextFile(
    `${folder}/model.safetensors.index.json`,
    JSON.stringify({ metadata: {}, weight_map: places }),
  );
}

/** bf16 is the upper half of f32. */
const upperHalves = (values: Float32Array): Uint8Array =>
  new Uint8Array(Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16).buffer);

/** A temporary folder with the model in it, in `model/`; removed with the scope. */
export async function tinyModel(
  options?: TinyOptions,
): Promise<AsyncDisposable & { readonly root: string; readonly model: string }> {
  const root = await Deno.makeTempDir({ prefix: "vernier-" }), model = `${root}/model`;
  await Deno.mkdir(model);
  await writeTinyModel(model, options);
  return { root, model, [Symbol.asyncDispose]: () => Deno.remove(root, { recursive: true }) };
}

/** What a command left behind. */
export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs compile.ts in a process of its own, where nobody answers a permission prompt. */
export async function runCompile(
  args: readonly string[],
  permissions: readonly string[] = ["-P"],
): Promise<CommandResult> {
  const script = new URL("../../compile.ts", import.meta.url).pathname;
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--no-check", "--quiet", ...permissions, script, ...args],
    cwd: new URL("../../", import.meta.url),
    env: { NO_COLOR: "1" },
  });
  const { code, stdout, stderr } = await command.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

/** The lines that Vernier printed to stderr: graphics drivers print there as well. */
export const ownLines = ({ stderr }: CommandResult): readonly string[] =>
  stderr.split("\n").filter((line) => line !== "" && !/^Warning|XDG_RUNTIME_DIR|Vulkan|MESA|libEGL/i.test(line));

/** Names of everything in a folder, sorted; empty where there is none. */
export async function namesIn(folder: string): Promise<readonly string[]> {
  return await Array.fromAsync(Deno.readDir(folder), ({ name }) => name).then((names) => names.sort(), () => []);
}
