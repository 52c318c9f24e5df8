/**
 * @file Text to token ids and back, by Hugging Face's own tokenizers; what is added here are checks of the files, the
 * rule for the first token, and decoding of a text that is still growing.
 */
import { Tokenizer as HuggingFaceTokenizer } from "npm:@huggingface/tokenizers@0.2.0";
import { quote, UserError } from "../../ir/errors.ts";
import { isJsonObject, type JsonObject, parseJsonObject } from "./json.ts";
import type { Folder } from "./source.ts";

/** A loaded tokenizer. */
export interface Tokenizer {
  /**
   * The ids of a text, with the special tokens that the tokenizer's template adds.
   *
   * @throws {UserError} if the vocabulary cannot express the text
   */
  encode(text: string): number[];
  /** The text of ids; special tokens, and ids the vocabulary lacks, become nothing. */
  decode(ids: readonly number[]): string;
  /** Decoding id by id, as a model produces them; `context` are ids before them, whose text is not repeated. */
  stream(context?: readonly number[]): TextStream;
  /** The id that begins a sequence, or null if the tokenizer knows none. */
  readonly bosId: number | null;
  /** The ids that end a sequence, as far as the tokenizer knows. */
  readonly eosIds: readonly number[];
  /** One more than the largest id. */
  readonly vocabSize: number;
}

/** A text that grows by tokens. */
export interface TextStream {
  /** Takes one id and returns the text that has become certain with it: empty in the middle of a character. */
  push(id: number): string;
  /** The text still held back, once no more ids follow. */
  end(): string;
}

/**
 * Loads a folder's `tokenizer.json` and, where there is one, `tokenizer_config.json`.
 *
 * @throws {UserError} if the files are missing, broken, or of a kind the library does not know
 */
export async function openTokenizer(folder: Folder): Promise<Tokenizer> {
  if (!await folder.has("tokenizer.json")) {
    throw new UserError({
      what: `Expected a tokenizer in ${quote(folder.name)} but found no tokenizer.json`,
      mend: "save the tokenizer with transformers, which writes that file",
    });
  }
  const config = await folder.has("tokenizer_config.json") ? await folder.read("tokenizer_config.json") : null;
  return loadTokenizer(await folder.read("tokenizer.json"), config, folder.name);
}

/**
 * Loads a tokenizer from the bytes of its files.
 *
 * @param tokenizerJson content of `tokenizer.json`
 * @param tokenizerConfig content of `tokenizer_config.json`, or null where there is none
 * @param folder what messages call the place of both
 * @throws {UserError} if the files are broken or of a kind the library does not know
 */
export function loadTokenizer(
  tokenizerJson: Uint8Array,
  tokenizerConfig: Uint8Array | null,
  folder: string,
): Tokenizer {
  const file = `${folder}/tokenizer.json`;
  const json = parseJsonObject(tokenizerJson, file);
  const config = tokenizerConfig ? parseJsonObject(tokenizerConfig, `${folder}/tokenizer_config.json`) : {};
  const tokenizer = construct(json, config, file);
  const specialId = (key: string) => {
    const token = config[key];
    const content = isJsonObject(token) ? token["content"] : token;
    return typeof content === "string" ? tokenizer.token_to_id(content) ?? null : null;
  };
  const bosId = specialId("bos_token");
  const eosId = specialId("eos_token");
  const addBos = config["add_bos_token"] === true;
  if (addBos && bosId === null) {
    throw new UserError({
      what: `Expected "bos_token" to be a token of the vocabulary but found ${quote(config["bos_token"])}`,
      where: quote(`${folder}/tokenizer_config.json`),
      mend: 'correct it, or set "add_bos_token" to false',
    });
  }

  const encode = (text: string): number[] => {
    const ids: readonly (number | undefined)[] = tokenizer.encode(text).ids;
    if (!ids.every((id) => id !== undefined)) {
      throw new UserError({
        what: `Expected a vocabulary for any text but found characters that it lacks in ${quote(text)}`,
        where: quote(file),
        mend: "use a tokenizer with an unknown token or with byte fallback",
      });
    }
    return addBos && bosId !== null && ids[0] !== bosId ? [bosId, ...ids] : [...ids];
  };
  const decode = (ids: readonly number[]): string => {
    const known = ids.filter((id) => tokenizer.id_to_token(id) !== undefined);
    if (known.length === 0) return "";
    return tokenizer.decode(known, {
      skip_special_tokens: true,
      // The library would remove spaces before punctuation by default, `transformers` does so on request only.
      clean_up_tokenization_spaces: config["clean_up_tokenization_spaces"] === true,
    });
  };
  return {
    encode,
    decode,
    stream: (context = []) => createStream(decode, context),
    bosId,
    eosIds: eosId === null ? [] : [eosId],
    vocabSize: 1 + tokenizer.get_vocab().values().reduce((largest, id) => Math.max(largest, id), -1),
  };
}

function construct(json: JsonObject, config: JsonObject, file: string): HuggingFaceTokenizer {
  try {
    return new HuggingFaceTokenizer({ added_tokens: [], ...json }, config);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new UserError({
      what: `Cannot read the tokenizer: ${reason}`,
      where: quote(file),
      mend: "save the tokenizer with a current version of transformers",
    }, { cause });
  }
}

/**
 * New text is the difference between two decodings that start at the same token, so that decoders which treat the first
 * token differently (most strip its leading space) do so in both. The window starts where text was certain last but one.
 */
function createStream(decode: (ids: readonly number[]) => string, context: readonly number[]): TextStream {
  let window = [...context];
  let certain = window.length; // how many of the window's ids have had their text returned
  const pending = () => decode(window).slice(decode(window.slice(0, certain)).length);
  return {
    push: (id) => {
      window.push(id);
      const text = pending();
      // A replacement character at the end is a character whose other bytes may be in the tokens to come.
      if (text === "" || text.endsWith("\uFFFD")) return "";
      window = window.slice(certain);
      certain = window.length;
      return text;
    },
    end: () => {
      const text = pending();
      certain = window.length;
      return text;
    },
  };
}
