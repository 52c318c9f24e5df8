/**
 * @file Reading JSON that somebody else wrote: errors name the file, and keys that occur twice, which `JSON.parse`
 * silently resolves in favour of the last one, can be found.
 */
import { quote, UserError } from "../../ir/errors.ts";

/** A JSON object whose fields nobody has checked yet. */
export type JsonObject = { readonly [key: string]: unknown };

/** True for what JSON writes in braces. */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Decodes UTF-8 bytes.
 *
 * @param name what messages call the file
 * @throws {UserError} if the bytes are not UTF-8
 */
export function decodeText(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new UserError({ what: "Expected UTF-8 text but found other bytes", where: quote(name) }, { cause });
  }
}

/** An object that stands on a line of its own. */
export interface JsonLine {
  readonly object: JsonObject;
  /** The line's text and its place, for messages. */
  readonly text: string;
  readonly where: string;
}

/**
 * The objects of a file that has one per line; blank lines are passed over.
 *
 * @param name what messages call the file
 * @param mend what messages say a line should be
 * @throws {UserError} if a line is not JSON, or not an object
 */
export function parseJsonLines(content: string, name: string, mend: string): readonly JsonLine[] {
  return content.split("\n").flatMap((text, i): JsonLine[] => {
    if (text.trim() === "") return [];
    const where = `line ${i + 1} of ${quote(name)}`;
    try {
      const object: unknown = JSON.parse(text);
      if (isJsonObject(object)) return [{ object, text, where }];
    } catch {
      // Reported below, like a line that is JSON but no object.
    }
    throw new UserError({ what: `Expected a JSON object but found ${quote(text)}`, where, mend });
  });
}

/**
 * Parses the bytes of a JSON file that must hold one object.
 *
 * @param name what messages call the file
 * @throws {UserError} if the bytes are not UTF-8, not JSON, or not an object
 */
export function parseJsonObject(bytes: Uint8Array, name: string): JsonObject {
  const text = decodeText(bytes, name);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    // Deep nesting ends in a RangeError, hence no look at the kind of error.
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new UserError({ what: `Cannot parse JSON: ${reason}`, where: quote(name) }, { cause });
  }
  if (!isJsonObject(value)) {
    throw new UserError({ what: `Expected a JSON object but found ${quote(value)}`, where: quote(name) });
  }
  return value;
}

/**
 * The first key which occurs twice in one object of `text`, at any depth, or null. The text must be valid JSON. Keys are
 * compared after their escapes are resolved, so `"a"` and `"\u0061"` are equal.
 */
export function findDuplicateKey(text: string): string | null {
  const open: (Set<string> | null)[] = []; // the keys seen in each open object; null for an array
  let expectsKey = false;
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case "{":
        open.push(new Set());
        expectsKey = true;
        break;
      case "[":
        open.push(null);
        expectsKey = false;
        break;
      case "}":
      case "]":
        open.pop();
        expectsKey = false;
        break;
      case ",":
        expectsKey = open.at(-1) instanceof Set;
        break;
      case ":":
        expectsKey = false;
        break;
      case '"': {
        const start = at++;
        while (text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
        const keys = open.at(-1);
        if (!expectsKey || !keys) break;
        const key: string = JSON.parse(text.slice(start, at + 1));
        if (keys.has(key)) return key;
        keys.add(key);
      }
    }
  }
  return null;
}
