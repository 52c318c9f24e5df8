/** A LLaMA of random weights as a GGUF file in Q4_0, its embeddings in Q8_0, for llama.cpp: just enough of the format to write it. */
import type { DecoderConfig } from "../../../compiler/frontends/config.ts";
import { random } from "../../../ir/random.ts";

const encoder = new TextEncoder();
const ALIGNMENT = 32, BLOCK = 32;
/** Numbers of the format's types. */
const VALUE = { u32: 4, i32: 5, f32: 6, string: 8, array: 9 } as const;
const TENSOR = { f32: 0, q4: 2, q8: 8 } as const;
/** 0.01 as a half: the scale of every block. */
const SCALE = 0x211f;

/** Bytes that grow. */
function createWriter() {
  let buffer = new Uint8Array(1 << 20), at = 0;
  const room = (bytes: number): DataView => {
    if (at + bytes > buffer.length) {
      const larger = new Uint8Array(2 * (at + bytes));
      larger.set(buffer);
      buffer = larger;
    }
    at += bytes;
    return new DataView(buffer.buffer, at - bytes, bytes);
  };
  const u32 = (value: number) => room(4).setUint32(0, value, true);
  const u64 = (value: number) => room(8).setBigUint64(0, BigInt(value), true);
  const bytes = (value: Uint8Array) => {
    const { byteOffset } = room(value.length);
    buffer.set(value, byteOffset);
  };
  const text = (value: string) => {
    const encoded = encoder.encode(value);
    u64(encoded.length);
    bytes(encoded);
  };
  return {
    u32,
    u64,
    text,
    bytes,
    f32: (value: number) => room(4).setFloat32(0, value, true),
    align: () => void room((ALIGNMENT - at % ALIGNMENT) % ALIGNMENT),
    finish: () => buffer.slice(0, at),
  };
}

interface TensorEntry {
  readonly name: string;
  /** Rows, columns; columns alone for vectors. */
  readonly shape: readonly number[];
  readonly type: keyof typeof TENSOR;
}

/** The file of a model with tied embeddings. */
export function randomGguf(config: DecoderConfig): Uint8Array<ArrayBuffer> {
  const { hiddenSize: h, intermediateSize: f, layers, vocabSize, heads, kvHeads, headDim } = config;
  const tensors: TensorEntry[] = [
    { name: "token_embd.weight", shape: [vocabSize, h], type: "q8" },
    { name: "output_norm.weight", shape: [h], type: "f32" },
  ];
  for (let i = 0; i < layers; i++) {
    const add = (name: string, shape: readonly number[], type: TensorEntry["type"]) =>
      tensors.push({ name: `blk.${i}.${name}.weight`, shape, type });
    for (const norm of ["attn_norm", "ffn_norm"]) add(norm, [h], "f32");
    add("attn_q", [heads * headDim, h], "q4");
    for (const name of ["attn_k", "attn_v"]) add(name, [kvHeads * headDim, h], "q4");
    add("attn_output", [h, heads * headDim], "q4");
    for (const name of ["ffn_gate", "ffn_up"]) add(name, [f, h], "q4");
    add("ffn_down", [h, f], "q4");
  }
  const file = createWriter(), facts = factsOf(config);
  file.bytes(encoder.encode("GGUF"));
  file.u32(3);
  file.u64(tensors.length);
  file.u64(facts.length);
  for (const write of facts) write(file);
  let offset = 0;
  for (const { name, shape, type } of tensors) {
    file.text(name);
    file.u32(shape.length);
    for (const size of [...shape].reverse()) file.u64(size);
    file.u32(TENSOR[type]);
    file.u64(offset);
    offset += Math.ceil(bytesOf(shape, type) / ALIGNMENT) * ALIGNMENT;
  }
  const draw = random(1, "gguf");
  for (const { shape, type } of tensors) {
    file.align();
    file.bytes(dataOf(bytesOf(shape, type), type, () => draw.int(256)));
  }
  return file.finish();
}

const bytesOf = (shape: readonly number[], type: keyof typeof TENSOR): number => {
  const size = shape.reduce((product, n) => product * n, 1);
  return type === "f32" ? 4 * size : size / BLOCK * (2 + (type === "q4" ? BLOCK / 2 : BLOCK));
};

function dataOf(bytes: number, type: keyof typeof TENSOR, byte: () => number): Uint8Array {
  if (type === "f32") return new Uint8Array(new Float32Array(bytes / 4).fill(1).buffer);
  const data = new Uint8Array(bytes), block = type === "q4" ? 2 + BLOCK / 2 : 2 + BLOCK;
  for (let at = 0; at < bytes; at += block) {
    data[at] = SCALE & 255;
    data[at + 1] = SCALE >> 8;
    for (let i = 2; i < block; i++) data[at + i] = byte();
  }
  return data;
}

type Fact = (file: ReturnType<typeof createWriter>) => void;

/** What llama.cpp wants to know of the model, and a vocabulary of bytes and made-up words. */
function factsOf(config: DecoderConfig): readonly Fact[] {
  const { vocabSize, bosTokenId } = config, [eos = 2] = config.eosTokenIds;
  const fact = (key: string, type: keyof typeof VALUE, write: Fact): Fact => (file) => {
    file.text(key);
    file.u32(VALUE[type]);
    write(file);
  };
  const number = (key: string, value: number) => fact(key, "u32", (file) => file.u32(value));
  const string = (key: string, value: string) => fact(key, "string", (file) => file.text(value));
  const array = (key: string, type: "string" | "f32" | "i32", write: (file: Parameters<Fact>[0], i: number) => void) =>
    fact(key, "array", (file) => {
      file.u32(VALUE[type]);
      file.u64(vocabSize);
      for (let i = 0; i < vocabSize; i++) write(file, i);
    });
  const SPECIAL = ["<unk>", "<s>", "</s>"], bytes = SPECIAL.length + 256;
  const token = (i: number) =>
    SPECIAL[i] ??
      (i < bytes ? `<0x${(i - SPECIAL.length).toString(16).toUpperCase().padStart(2, "0")}>` : `word${i}`);
  // Unknown, control, byte and normal tokens.
  const kind = (i: number) => i === 0 ? 2 : i < SPECIAL.length ? 3 : i < bytes ? 6 : 1;
  return [
    string("general.architecture", "llama"),
    number("llama.context_length", config.maxPositions),
    number("llama.embedding_length", config.hiddenSize),
    number("llama.block_count", config.layers),
    number("llama.feed_forward_length", config.intermediateSize),
    number("llama.attention.head_count", config.heads),
    number("llama.attention.head_count_kv", config.kvHeads),
    number("llama.rope.dimension_count", config.headDim),
    fact("llama.attention.layer_norm_rms_epsilon", "f32", (file) => file.f32(config.rmsNormEps)),
    string("tokenizer.ggml.model", "llama"),
    array("tokenizer.ggml.tokens", "string", (file, i) => file.text(token(i))),
    array("tokenizer.ggml.scores", "f32", (file, i) => file.f32(-i)),
    array("tokenizer.ggml.token_type", "i32", (file, i) => file.u32(kind(i))),
    number("tokenizer.ggml.bos_token_id", bosTokenId ?? 1),
    number("tokenizer.ggml.eos_token_id", eos),
  ];
}
