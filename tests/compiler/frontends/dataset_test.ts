import { assertEquals, assertThrows } from "@std/assert";
import { parseTexts, readTexts, tokenizeTexts } from "../../../compiler/frontends/dataset.ts";
import { localFolder } from "../../../compiler/frontends/source.ts";
import { openTokenizer, type Tokenizer } from "../../../compiler/frontends/tokenizer.ts";
import { UserError } from "../../../ir/errors.ts";
import { assertUserError, storiesFolder, utf8 } from "./fixtures.ts";

const rejects = (name: string, content: string, message: string) =>
  assertThrows(() => parseTexts(utf8(content), name), UserError, message);

Deno.test("parseTexts() takes a .txt file as one document", () => {
  assertEquals(parseTexts(utf8("a\n\nb\n"), "f.txt"), { name: "f.txt", kind: "document", texts: ["a\n\nb\n"] });
});

Deno.test("parseTexts() takes each line of a .jsonl file as a sequence, whatever the line ends", () => {
  const content = '{"text":"a\\nb","id":1}\r\n\n{"text":""}\n{"text":"c"}';
  assertEquals(parseTexts(utf8(content), "f.JSONL"), { name: "f.JSONL", kind: "sequences", texts: ["a\nb", "c"] });
});

Deno.test("parseTexts() rejects wrong files with name and line", () => {
  rejects("f.csv", "a", 'a .txt or .jsonl file but found "f.csv"');
  rejects("txt", "a", "a .txt or .jsonl file");
  rejects("f.txt", "", 'Expected text but found none, in "f.txt"');
  rejects("f.txt", " \n\t", "Expected text but found none");
  rejects("f.jsonl", "", "Expected text but found none");
  rejects("f.jsonl", '{"text":" "}\n', "Expected text but found none");
  rejects("f.jsonl", '{"text":"a"}\n\n{"text":', 'found "{\\"text\\":", in line 3 of "f.jsonl"');
  rejects("f.jsonl", '"text"', "Expected a JSON object");
  rejects("f.jsonl", '[{"text":"a"}]', "Expected a JSON object");
  rejects("f.jsonl", '{"txt":"a"}', 'Expected a string field "text"');
  rejects("f.jsonl", '{"text":1}', 'Expected a string field "text"');
  assertThrows(() => parseTexts(Uint8Array.of(0xff, 0xfe), "f.txt"), UserError, "UTF-8");
});

Deno.test("readTexts() rejects a missing file, and a wrong extension before looking for the file", async () => {
  await assertUserError(() => readTexts("none/none.txt"), /Cannot read "none\/none\.txt": there is no such file/);
  await assertUserError(() => readTexts("none/none.md"), /a \.txt or \.jsonl file/);
});

/** BOS 0, then one id per character: its code. */
const characters: Tokenizer = {
  encode: (text) => [0, ...Array.from(text, (character) => character.codePointAt(0) ?? 0)],
  decode: (ids) => String.fromCodePoint(...ids),
  stream: () => ({ push: () => "", end: () => "" }),
  bosId: 0,
  eosIds: [],
  vocabSize: 128,
};
const cut = (name: string, content: string, options: Parameters<typeof tokenizeTexts>[2]) =>
  tokenizeTexts(parseTexts(utf8(content), name), characters, options).map((ids) => [...ids]);

Deno.test("tokenizeTexts() cuts a document to consecutive pieces, the last one shorter", () => {
  assertEquals(cut("f.txt", "abcd", { maxTokens: 2 }), [[0, 97], [98, 99]]);
  assertEquals(cut("f.txt", "abcd", { maxTokens: 3 }), [[0, 97, 98], [99, 100]]);
  assertEquals(cut("f.txt", "abcd", { maxTokens: 100 }), [[0, 97, 98, 99, 100]]);
});

Deno.test("tokenizeTexts() keeps the start of each separate sequence", () => {
  const content = '{"text":"abc"}\n{"text":"d"}\n{"text":"e"}';
  assertEquals(cut("f.jsonl", content, { maxTokens: 3 }), [[0, 97, 98], [0, 100], [0, 101]]);
  assertEquals(cut("f.jsonl", content, { maxTokens: 3, maxSequences: 2 }), [[0, 97, 98], [0, 100]]);
});

Deno.test("tokenizeTexts() rejects ids the model lacks, and texts in which nothing can be predicted", () => {
  assertThrows(() => cut("f.txt", "ab", { maxTokens: 3, vocabSize: 98 }), UserError, "size 98 but found 98");
  const wordless: Tokenizer = { ...characters, encode: () => [0] };
  const data = parseTexts(utf8("a"), "f.txt");
  assertThrows(() => tokenizeTexts(data, wordless, { maxTokens: 3 }), UserError, "at least two tokens");
  assertThrows(() => cut("f.txt", "ab", { maxTokens: 1 }), RangeError, "at least 2 tokens");
});

Deno.test("tokenizeTexts() counts the tokens of a real evaluation text", async () => {
  const path = await storiesFolder("tokenizeTexts() counts the tokens of a real evaluation text");
  if (!path) return;
  const tokenizer = await openTokenizer(await localFolder(path));
  const sequences = tokenizeTexts(await readTexts(`${path}/evaluation.jsonl`), tokenizer, {
    maxTokens: 512,
    vocabSize: 512,
  });
  assertEquals(sequences.length, 64);
  assertEquals(sequences.reduce((sum, ids) => sum + ids.length - 1, 0), 23764);
});
