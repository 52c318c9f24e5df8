/**
 * @file Texts to calibrate on and to evaluate: a `.txt` file is one long text, cut into consecutive sequences; in a
 * `.jsonl` file each line is a sequence of its own.
 */
import { quote, UserError } from "../../ir/errors.ts";
import { decodeText, type JsonLine, parseJsonLines } from "./json.ts";
import { readFile } from "./source.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** The content of a text file. */
export interface TextData {
  /** What messages call it. */
  readonly name: string;
  /** One long text, or texts that have nothing to do with each other. */
  readonly kind: "document" | "sequences";
  /** At least one, none blank. */
  readonly texts: readonly string[];
}

/**
 * Reads a `.txt` or `.jsonl` file.
 *
 * @throws {UserError} if it cannot be read, or as `parseTexts`
 */
export async function readTexts(path: string): Promise<TextData> {
  checkExtension(path);
  return parseTexts(await readFile(path), path);
}

/**
 * Parses the bytes of a `.txt` or `.jsonl` file. Blank lines and blank texts of a `.jsonl` file are passed over.
 *
 * @param name the file's name: its extension decides, and messages quote it
 * @throws {UserError} if there is no text, the extension is another one, or a line is not an object with a `text` string
 */
export function parseTexts(bytes: Uint8Array, name: string): TextData {
  const kind = checkExtension(name);
  const content = decodeText(bytes, name);
  const texts = kind === "document" ? [content] : parseJsonLines(content, name, LINE_FORM).map(textOf);
  const filled = texts.filter((text) => text.trim() !== "");
  if (filled.length === 0) {
    throw new UserError({
      what: "Expected text but found none",
      where: quote(name),
      mend: "give a file with some text",
    });
  }
  return { name, kind, texts: filled };
}

/** How texts become sequences of tokens. */
export interface CutOptions {
  /** The longest sequence, special tokens included; at least 2. */
  readonly maxTokens: number;
  /** How many sequences at most, from the start; all by default. */
  readonly maxSequences?: number;
  /** Ids must be below this: the model's number of embeddings. */
  readonly vocabSize?: number;
}

/**
 * Tokenizes texts and cuts them to sequences of 2 to `maxTokens` ids. A document is tokenized as a whole and cut into
 * consecutive pieces, of which only the first begins with the tokenizer's special tokens, as is usual for perplexities; of
 * other texts the start is kept. Pieces of a single token are left out, since nothing can be predicted in them.
 *
 * @throws {UserError} if no sequence is left, or the tokenizer does not belong to the model
 */
export function tokenizeTexts(data: TextData, tokenizer: Tokenizer, options: CutOptions): readonly Int32Array[] {
  const { maxTokens, maxSequences = Infinity, vocabSize = Infinity } = options;
  if (!(maxTokens >= 2)) {
    throw new RangeError(`Expected sequences of at least 2 tokens but found maxTokens ${maxTokens}`);
  }
  const sequences: Int32Array[] = [];
  for (const text of data.texts) {
    const ids = tokenizer.encode(text);
    const end = data.kind === "document" ? ids.length : Math.min(ids.length, maxTokens);
    for (let start = 0; start < end && sequences.length < maxSequences; start += maxTokens) {
      const piece = Int32Array.from(ids.slice(start, Math.min(end, start + maxTokens)));
      checkIds(piece, vocabSize, data.name);
      if (piece.length > 1) sequences.push(piece);
    }
    if (sequences.length >= maxSequences) break;
  }
  if (sequences.length === 0) {
    throw new UserError({
      what: "Expected a text of at least two tokens but found none",
      where: quote(data.name),
      mend: "give a file with more text",
    });
  }
  return sequences;
}

function checkExtension(name: string): TextData["kind"] {
  if (/\.txt$/i.test(name)) return "document";
  if (/\.jsonl$/i.test(name)) return "sequences";
  throw new UserError({
    what: `Expected a .txt or .jsonl file but found ${quote(name)}`,
    mend: 'give plain text, or one {"text": "…"} object per line',
  });
}

/** What a line of a `.jsonl` file should be. */
const LINE_FORM = 'write one {"text": "…"} object per line';

function textOf({ object, text: line, where }: JsonLine): string {
  const text = object["text"];
  if (typeof text === "string") return text;
  throw new UserError({
    what: `Expected a string field "text" but found ${quote(line)}`,
    where,
    mend: LINE_FORM,
  });
}

/**
 * Refuses what is no token of a vocabulary: kernels would take another one's embedding.
 *
 * @param name of the file that they come from, if any
 * @throws {UserError} naming the first
 */
export function checkIds(ids: ArrayLike<number>, vocabSize: number, name?: string): void {
  const id = Array.prototype.find.call(ids, (each: number) => !Number.isInteger(each) || each < 0 || each >= vocabSize);
  if (id === undefined) return;
  throw new UserError({
    what: `Expected token ids below the model's vocabulary size ${vocabSize} but found ${id}`,
    ...(name === undefined ? {} : { where: quote(name) }),
    mend: "use the tokenizer that belongs to the model",
  });
}
