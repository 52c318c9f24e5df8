import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { findDuplicateKey, parseJsonObject } from "../../../compiler/frontends/json.ts";
import { UserError } from "../../../ir/errors.ts";
import { utf8 } from "./fixtures.ts";

Deno.test("findDuplicateKey() finds repeated keys at any depth and in any spelling", () => {
  assertEquals(findDuplicateKey('{"a":1,"a":2}'), "a");
  assertEquals(findDuplicateKey('{"a":{"b":[{"c":1,"c":2}]}}'), "c");
  assertEquals(findDuplicateKey('{"a" : 1 , "\\u0061":2}'), "a");
  assertEquals(findDuplicateKey('{"\\"":1,"\\"":2}'), '"');
  assertEquals(findDuplicateKey('{"":1,"":2}'), "");
});

Deno.test("findDuplicateKey() is not misled by values, other objects, or braces in strings", () => {
  assertEquals(findDuplicateKey('{"a":"a","b":["a","a",{"a":1}],"c":{"a":1,"b":2}}'), null);
  assertEquals(findDuplicateKey('{"a{\\"b\\":":"},\\"a\\":","c\\\\":1,"d":"\\\\"}'), null);
  assertEquals(findDuplicateKey('["a","a"]'), null);
});

Deno.test("findDuplicateKey() finds nothing in what JSON.stringify writes", () => {
  fc.assert(fc.property(fc.json(), (text) => findDuplicateKey(JSON.stringify(JSON.parse(text))) === null), { seed: 1 });
});

Deno.test("parseJsonObject() demands an object and names the file", () => {
  assertEquals(parseJsonObject(utf8('\ufeff{"a":1}'), "f"), { a: 1 });
  assertThrows(() => parseJsonObject(utf8("[1]"), "f"), UserError, 'a JSON object but found [1], in "f"');
  assertThrows(() => parseJsonObject(utf8(""), "f"), UserError, "Cannot parse JSON");
  assertThrows(() => parseJsonObject(Uint8Array.of(255), "f"), UserError, "UTF-8");
});
