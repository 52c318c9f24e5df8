/** Reads one line of the textual form from left to right; what the parsers of graphs and of modules share. */
import type { Attr } from "./node.ts";

/** Words of numbers that JSON does not know. */
const NUMBERS: Readonly<Record<string, number>> = { inf: Infinity, "-inf": -Infinity, nan: NaN };
const NUMBER = /-?(?:\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|inf\b)|nan\b/y;
const TEXT = /"(?:[^"\\]|\\.)*"/y;
const NAME = /[A-Za-z_][\w.]*/y;

/** A position in a line. Every `expect` method moves past what it read and the blanks behind it, or throws. */
export interface Cursor {
  /** Whether nothing but blanks and a comment is left. */
  atEnd(): boolean;
  /** Whether `mark` stands here. */
  at(mark: string): boolean;
  /** Moves past `mark` if it stands here. */
  skip(mark: string): boolean;
  expect(mark: string): void;
  expectEnd(): void;
  /** What the pattern (sticky) matches here; `what` names it in the error. */
  match(pattern: RegExp, what: string): string;
  /** A bare or quoted name. */
  name(what: string): string;
  /** A value of an attribute. */
  value(): Attr;
  /** Throws a `SyntaxError` about this line; found is, unless given, the rest of it. */
  fail(expected: string, found?: string): never;
  /** Throws a `SyntaxError` about this line whose reason is a whole sentence. */
  reject(reason: string): never;
}

/** A line that holds more than blanks and a comment, with its number in the whole text, counted from 1. */
export interface Line {
  readonly number: number;
  readonly text: string;
}

/** The lines of a text that say something. */
export function linesOf(text: string): readonly Line[] {
  const lines = text.split("\n").map((line, i) => ({ number: i + 1, text: line.trim() }));
  return lines.filter((line) => line.text !== "" && !line.text.startsWith("//"));
}

/** A cursor at the start of a line. */
export function cursorOf({ number, text }: Line): Cursor {
  let at = 0;
  const rest = () => text.slice(at).replace(/^\s*\/\/.*$/, "").trimEnd();
  const reject = (reason: string): never => {
    throw new SyntaxError(`Cannot parse line ${number}: ${reason}; the line is "${text}"`);
  };
  const fail = (expected: string, found = rest() === "" ? "the end of the line" : `"${rest()}"`): never =>
    reject(`expected ${expected} but found ${found}`);
  const blanks = () => {
    while (/\s/.test(text[at] ?? "")) at++;
  };
  const attempt = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    if (found !== undefined) {
      at += found.length;
      blanks();
    }
    return found;
  };
  const skip = (mark: string): boolean => {
    if (!text.startsWith(mark, at)) return false;
    at += mark.length;
    blanks();
    return true;
  };
  const expect = (mark: string) => {
    if (!skip(mark)) fail(`"${mark}"`);
  };
  const quoted = (): string | undefined => {
    const start = at, found = attempt(TEXT);
    if (found === undefined) return undefined;
    try {
      return JSON.parse(found) as string;
    } catch {
      at = start;
      return fail("a text in the form of JSON");
    }
  };
  const scalar = (): number | string => {
    const number = attempt(NUMBER);
    if (number !== undefined) return NUMBERS[number] ?? Number(number);
    return quoted() ?? fail("a number, a text, true, false or a list");
  };
  return {
    atEnd: () => rest() === "",
    at: (mark) => text.startsWith(mark, at),
    skip,
    expect,
    expectEnd: () => {
      if (rest() !== "") fail("the end of the line");
    },
    match: (pattern, what) => attempt(pattern) ?? fail(what),
    name: (what) => quoted() ?? attempt(NAME) ?? fail(what),
    value: () => {
      if (attempt(/true\b/y) !== undefined) return true;
      if (attempt(/false\b/y) !== undefined) return false;
      if (!skip("[")) return scalar();
      const list: (number | string)[] = [];
      while (!skip("]")) {
        if (list.length > 0) expect(",");
        list.push(scalar());
      }
      return list;
    },
    fail,
    reject,
  };
}
