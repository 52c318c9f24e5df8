/**
 * @file The `config.json` of decoder models of the LLaMA family, read into one plain record. Absent fields get the
 * defaults of Hugging Face `transformers`, per family; what the front-end cannot compute faithfully is refused here, by
 * name, rather than computed wrongly later.
 */
import { type Fields, fieldsOf } from "./fields.ts";
import { parseJsonObject } from "./json.ts";
import { readRope, type RopeConfig } from "./rope_config.ts";

/** Everything that shapes a decoder's graph, whichever family it comes from. */
export interface DecoderConfig extends RopeConfig {
  readonly modelType: ModelType;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  /** Divides `heads`; equal to it without grouped-query attention. */
  readonly kvHeads: number;
  /** Even; `heads · headDim` need not be `hiddenSize`. */
  readonly headDim: number;
  readonly rmsNormEps: number;
  /** The context the model was trained for, in tokens. */
  readonly maxPositions: number;
  /** The output matrix is the embedding. */
  readonly tieEmbeddings: boolean;
  /** Biases of the q, k and v projections, and of the output projection. */
  readonly attentionBias: { readonly qkv: boolean; readonly output: boolean };
  /** Biases of gate, up and down. */
  readonly mlpBias: boolean;
  /** Each token sees that many tokens, itself included; null: all before it. The same in every layer. */
  readonly slidingWindow: number | null;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
}

/** The families that are known. */
export type ModelType = "llama" | "mistral" | "qwen2";

/** Where the families differ. */
interface Family {
  /** Prefix of the class names in `architectures`. */
  readonly architecture: string;
  readonly maxPositions: number;
  /** Null: as many as heads. */
  readonly kvHeads: number | null;
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  attentionBias(fields: Fields): DecoderConfig["attentionBias"];
  mlpBias(fields: Fields): boolean;
  slidingWindow(fields: Fields, layers: number): number | null;
}

const FAMILIES = {
  llama: {
    architecture: "Llama",
    maxPositions: 2048,
    kvHeads: null,
    bosTokenId: 1,
    eosTokenId: 2,
    attentionBias: (fields) => {
      const bias = fields.boolean("attention_bias", false);
      return { qkv: bias, output: bias };
    },
    mlpBias: (fields) => fields.boolean("mlp_bias", false),
    slidingWindow: () => null,
  },
  mistral: {
    architecture: "Mistral",
    maxPositions: 131072,
    kvHeads: 8,
    bosTokenId: 1,
    eosTokenId: 2,
    attentionBias: () => ({ qkv: false, output: false }),
    mlpBias: () => false,
    // An absent window means 4096, as in the first Mistral's own configuration class; null means none.
    slidingWindow: (fields) => fields.raw("sliding_window") === null ? null : fields.count("sliding_window", 4096),
  },
  qwen2: {
    architecture: "Qwen2",
    maxPositions: 32768,
    kvHeads: 32,
    bosTokenId: null,
    eosTokenId: null,
    attentionBias: () => ({ qkv: true, output: false }),
    mlpBias: () => false,
    slidingWindow: qwen2Window,
  },
} as const satisfies Record<ModelType, Family>;

/**
 * Reads and checks a `config.json`.
 *
 * @param bytes the file's content
 * @param file what messages call the file
 * @throws {UserError} on fields of wrong type or value, and on architectures, activations or rope types not supported
 */
export function parseDecoderConfig(bytes: Uint8Array, file: string): DecoderConfig {
  const fields = fieldsOf(parseJsonObject(bytes, file), file);
  const modelType = readModelType(fields);
  const family: Family = FAMILIES[modelType];
  refuseUnsupported(fields);

  const hiddenSize = fields.count("hidden_size");
  const layers = fields.count("num_hidden_layers");
  const maxPositions = fields.count("max_position_embeddings", family.maxPositions);
  if (maxPositions < 2) throw fields.error("max_position_embeddings", "2 or more");
  return {
    modelType,
    vocabSize: fields.count("vocab_size"),
    hiddenSize,
    intermediateSize: fields.count("intermediate_size"),
    layers,
    ...readHeads(fields, hiddenSize, family.kvHeads),
    rmsNormEps: fields.positive("rms_norm_eps", 1e-6),
    ...readRope(fields, maxPositions),
    maxPositions,
    tieEmbeddings: fields.boolean("tie_word_embeddings", false),
    attentionBias: family.attentionBias(fields),
    mlpBias: family.mlpBias(fields),
    slidingWindow: family.slidingWindow(fields, layers),
    bosTokenId: readTokenIds(fields, "bos_token_id", family.bosTokenId)[0] ?? null,
    eosTokenIds: readTokenIds(fields, "eos_token_id", family.eosTokenId),
  };
}

function readModelType(fields: Fields): ModelType {
  const mend = 'use a checkpoint of type "llama", "mistral" or "qwen2"';
  const modelType = fields.raw("model_type");
  if (typeof modelType !== "string" || !isModelType(modelType)) {
    throw fields.error("model_type", "a supported model type", mend);
  }
  const { architecture } = FAMILIES[modelType];
  const architectures = fields.raw("architectures") ?? [`${architecture}ForCausalLM`];
  const supported = [`${architecture}ForCausalLM`, `${architecture}Model`];
  if (!Array.isArray(architectures) || !architectures.every((name) => supported.includes(name))) {
    throw fields.error("architectures", `["${architecture}ForCausalLM"]`, mend);
  }
  return modelType;
}

function isModelType(value: string): value is ModelType {
  return Object.hasOwn(FAMILIES, value);
}

/** Fields that would change the arithmetic in ways the front-end does not know. */
function refuseUnsupported(fields: Fields): void {
  const activation = fields.string("hidden_act", "silu");
  if (activation !== "silu" && activation !== "swish") {
    throw fields.error("hidden_act", 'the activation "silu"', "use a checkpoint with a SwiGLU feed-forward network");
  }
  if ((fields.raw("quantization_config") ?? null) !== null) {
    throw fields.error("quantization_config", "absent", "use the checkpoint from before quantization");
  }
}

function readHeads(fields: Fields, hiddenSize: number, defaultKvHeads: number | null) {
  const heads = fields.count("num_attention_heads");
  // Null is an old way to write "as many as heads"; only an absent field gets the family's default.
  const isNull = fields.raw("num_key_value_heads") === null;
  const kvHeads = fields.count("num_key_value_heads", isNull ? heads : defaultKvHeads ?? heads);
  if (heads % kvHeads !== 0) throw fields.error("num_key_value_heads", `a divisor of the ${heads} attention heads`);
  if ((fields.raw("head_dim") ?? null) === null && hiddenSize % heads !== 0) {
    throw fields.error("num_attention_heads", `a divisor of the hidden size ${hiddenSize}, as there is no head_dim`);
  }
  const headDim = fields.count("head_dim", hiddenSize / heads);
  if (headDim % 2 !== 0) {
    const culprit = fields.raw("head_dim") === headDim ? "head_dim" : "num_attention_heads";
    throw fields.error(culprit, "such that heads have an even size, for rotary embeddings");
  }
  return { heads, kvHeads, headDim };
}

/**
 * Qwen2 switches windows on by a flag, and then only in the layers that `layer_types` names or, where that is absent, in
 * those from `max_window_layers` on. A mixture of both kinds of layer is refused.
 */
function qwen2Window(fields: Fields, layers: number): number | null {
  if (!fields.boolean("use_sliding_window", false) || fields.raw("sliding_window") === null) return null;
  const window = fields.count("sliding_window", 4096);
  const types = fields.raw("layer_types") ?? null;
  if (types === null) {
    const first = fields.raw("max_window_layers") === 0 ? 0 : fields.count("max_window_layers", 28);
    if (first >= layers) return null;
    if (first === 0) return window;
  } else if (Array.isArray(types)) {
    if (types.every((type) => type === "full_attention")) return null;
    if (types.every((type) => type === "sliding_attention")) return window;
  }
  throw fields.error(
    types === null ? "max_window_layers" : "layer_types",
    "such that all layers have one attention window",
    "use a checkpoint with full attention, or with the same window, in every layer",
  );
}

/** One id, a list of ids, or null for none. */
function readTokenIds(fields: Fields, key: string, fallback: number | null): readonly number[] {
  const value = fields.raw(key);
  const ids = value === undefined ? fallback ?? [] : value ?? [];
  const list: readonly unknown[] = Array.isArray(ids) ? ids : [ids];
  if (!list.every(isTokenId)) throw fields.error(key, "a token id or a list of token ids");
  return list;
}

const isTokenId = (id: unknown): id is number => typeof id === "number" && Number.isSafeInteger(id) && id >= 0;
