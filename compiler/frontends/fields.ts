/** @file Checked access to the fields of a JSON object: each getter either returns its type or throws a `UserError`. */
import { quote, UserError } from "../../ir/errors.ts";
import { isJsonObject, type JsonObject } from "./json.ts";

/**
 * Getters of one object's fields. `fallback` stands for a field that is absent or null; without one the field is
 * required.
 */
export interface Fields {
  /** A whole number from 1 to 2³¹ − 1. */
  count(key: string, fallback?: number): number;
  /** A finite number above 0. */
  positive(key: string, fallback?: number): number;
  boolean(key: string, fallback?: boolean): boolean;
  string(key: string, fallback?: string): string;
  /** The nested object, or null. */
  object(key: string): Fields | null;
  /** The keys that there are. */
  names(): readonly string[];
  /** The field as it is: unchecked, undefined if absent. */
  raw(key: string): unknown;
  /** The error that `key` is not `expected`. */
  error(key: string, expected: string, mend?: string): UserError;
}

/**
 * Wraps an object for checked access.
 *
 * @param file what messages call the file
 * @param path what stands before the key in messages, for nested objects: `rope_scaling.`
 * @param where the place in messages: the file unless given
 */
export function fieldsOf(object: JsonObject, file: string, path = "", where = quote(file)): Fields {
  const raw = (key: string) => Object.hasOwn(object, key) ? object[key] : undefined;

  const error = (key: string, expected: string, mend = "correct the field") =>
    new UserError({
      what: `Expected ${quote(path + key)} to be ${expected} but found ${
        raw(key) === undefined ? "none" : quote(raw(key))
      }`,
      where,
      mend,
    });

  function get<T>(key: string, expected: string, fallback: T | undefined, is: (value: unknown) => value is T): T {
    const value = raw(key) ?? fallback;
    if (!is(value)) throw error(key, expected);
    return value;
  }

  return {
    count: (key, fallback) => get(key, "a positive integer", fallback, isCount),
    positive: (key, fallback) => get(key, "a positive number", fallback, isPositive),
    boolean: (key, fallback) => get(key, "true or false", fallback, (value) => typeof value === "boolean"),
    string: (key, fallback) => get(key, "a string", fallback, (value) => typeof value === "string"),
    object: (key) => {
      const value = raw(key) ?? null;
      if (value === null) return null;
      if (!isJsonObject(value)) throw error(key, "an object");
      return fieldsOf(value, file, `${path}${key}.`, where);
    },
    names: () => Object.keys(object),
    raw,
    error,
  };
}

const isCount = (value: unknown): value is number =>
  typeof value === "number" && Number.isInteger(value) && value > 0 && value < 2 ** 31;

const isPositive = (value: unknown): value is number =>
  typeof value === "number" && Number.isFinite(value) && value > 0;
