import { assertEquals, assertThrows } from "@std/assert";
import { readTexts } from "../../../compiler/frontends/dataset.ts";
import { localFolder } from "../../../compiler/frontends/source.ts";
import { loadTokenizer, openTokenizer, type Tokenizer } from "../../../compiler/frontends/tokenizer.ts";
import { UserError } from "../../../ir/errors.ts";
import { assertUserError, folderOf, storiesFolder, utf8 } from "./fixtures.ts";

/** LLaMA's kind of tokenizer, with pieces for "▁a", "▁ab", and bytes for all else. */
const tiny = {
  version: "1.0",
  added_tokens: ["<unk>", "<s>", "</s>"].map((content, id) => ({ id, content, special: true, normalized: false })),
  normalizer: {
    type: "Sequence",
    normalizers: [{ type: "Prepend", prepend: "▁" }, { type: "Replace", pattern: { String: " " }, content: "▁" }],
  },
  pre_tokenizer: null,
  post_processor: null as unknown,
  decoder: {
    type: "Sequence",
    decoders: [
      { type: "Replace", pattern: { String: "▁" }, content: " " },
      { type: "ByteFallback" },
      { type: "Fuse" },
      { type: "Strip", content: " ", start: 1, stop: 0 },
    ],
  },
  model: {
    type: "BPE",
    unk_token: "<unk>",
    byte_fallback: true,
    vocab: Object.fromEntries([
      ...["<unk>", "<s>", "</s>"],
      ...Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
      ...["▁", "a", "b", "▁a", "▁ab"],
    ].map((token, id) => [token, id])),
    merges: ["▁ a", "▁a b"],
  },
};
const tinyConfig = { bos_token: "<s>", eos_token: { content: "</s>" }, add_bos_token: true };
const byte = (value: number) => 3 + value;

const load = (json: unknown, config: unknown = tinyConfig): Tokenizer =>
  loadTokenizer(utf8(JSON.stringify(json)), config === null ? null : utf8(JSON.stringify(config)), "model");

Deno.test("encode() begins with BOS if the configuration says so, and only once", () => {
  assertEquals(load(tiny).encode("ab a"), [1, 263, 262]);
  assertEquals(load(tiny, { ...tinyConfig, add_bos_token: false }).encode("ab a"), [263, 262]);
  assertEquals(load(tiny, null).encode("ab a"), [263, 262]);
  const template = {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [],
    special_tokens: {},
  };
  assertEquals(load({ ...tiny, post_processor: template }).encode("ab a"), [1, 263, 262]);
  assertEquals(load({ ...tiny, post_processor: template }, {}).encode("ab a"), [1, 263, 262]);
});

Deno.test("loadTokenizer() knows the special ids and the size of the vocabulary", () => {
  const tokenizer = load(tiny);
  assertEquals([tokenizer.bosId, tokenizer.eosIds, tokenizer.vocabSize], [1, [2], 264]);
  const bare = load(tiny, null);
  assertEquals([bare.bosId, bare.eosIds], [null, []]);
});

Deno.test("decode() leaves out special tokens and unknown ids", () => {
  const tokenizer = load(tiny);
  assertEquals(tokenizer.decode([1, 263, 262, 9999, 2]), "ab a");
  assertEquals(tokenizer.decode([]), "");
  assertEquals(tokenizer.decode([1]), "");
  assertEquals(tokenizer.decode(tokenizer.encode("a , b")), "a , b");
});

Deno.test("stream() holds a character back until all of its bytes are there", () => {
  const stream = load(tiny).stream();
  assertEquals([1, 262, byte(0xe2), byte(0x82), byte(0xac), 262].map(stream.push), ["", "a", "", "", "€", " a"]);
  assertEquals(stream.end(), "");
});

Deno.test("stream() goes on after a context and gives out half a character at the end", () => {
  const stream = load(tiny).stream([1, 263]);
  assertEquals([262, 2, 261, byte(0xe2)].map(stream.push), [" a", "", "b", ""]);
  assertEquals(stream.end(), "\uFFFD");
  assertEquals(stream.end(), "");
});

Deno.test("loadTokenizer() rejects broken files", async () => {
  assertThrows(() => loadTokenizer(utf8("{"), null, "model"), UserError, '"model/tokenizer.json"');
  assertThrows(() => loadTokenizer(utf8("{}"), null, "model"), UserError, "Cannot read the tokenizer");
  assertThrows(() => load({ ...tiny, model: null }), UserError, "Cannot read the tokenizer");
  assertThrows(() => load({ ...tiny, model: { type: "Magic" } }), UserError, "Cannot read the tokenizer");
  assertThrows(() => load({ ...tiny, added_tokens: 3 }), UserError, "Cannot read the tokenizer");
  assertThrows(() => load({ ...tiny, decoder: { type: "Magic" } }), UserError, "Magic");
  assertThrows(() => load(tiny, { add_bos_token: true }), UserError, '"bos_token" to be a token of the vocabulary');
  await assertUserError(() => openTokenizer(folderOf({})), /tokenizer in "model" but found no tokenizer\.json/);
  const files = { "tokenizer.json": JSON.stringify(tiny), "tokenizer_config.json": "[]" };
  await assertUserError(
    () => openTokenizer(folderOf(files)),
    /a JSON object but found \[\], in "model\/tokenizer_config/,
  );
});

Deno.test("encode() rejects text that the vocabulary cannot express", () => {
  const model = { ...tiny.model, byte_fallback: false, unk_token: "<none>" };
  assertThrows(() => load({ ...tiny, model }).encode("é"), UserError, "characters that it lacks");
});

Deno.test("a real tokenizer encodes as documented, and decodes and streams whole stories back", async () => {
  const path = await storiesFolder("a real tokenizer encodes as documented");
  if (!path) return;
  const tokenizer = await openTokenizer(await localFolder(path));
  assertEquals(tokenizer.encode("Once upon").slice(0, 3), [1, 403, 407]);
  assertEquals([tokenizer.bosId, tokenizer.eosIds, tokenizer.vocabSize], [1, [2], 512]);
  const { texts } = await readTexts(`${path}/evaluation.jsonl`);
  for (const text of [...texts.slice(0, 16), "naïve €5 — 日本 🙂\n"]) {
    const ids = tokenizer.encode(text);
    assertEquals(tokenizer.decode(ids), text);
    const stream = tokenizer.stream();
    assertEquals(ids.map(stream.push).join("") + stream.end(), text);
  }
});
