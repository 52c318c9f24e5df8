import { assertEquals, assertMatch } from "@std/assert";
import { quote, UserError } from "../../ir/errors.ts";

Deno.test("UserError words what, where and mend in one line", () => {
  const error = new UserError({ what: "Expected 2 but found 3", where: '"a.json"', mend: "correct the field" });
  assertEquals(error.message, 'Expected 2 but found 3, in "a.json"; correct the field');
  assertEquals(error.exitCode, 2);
  assertEquals(new UserError({ what: "Expected 2 but found 3" }).message, "Expected 2 but found 3");
});

Deno.test("UserError writes out line breaks, terminal escapes and bidirectional marks", () => {
  const error = new UserError({ what: "a\nb\u001b[31mc\u202ed\u2028e" });
  assertEquals(error.message, "a\\u{a}b\\u{1b}[31mc\\u{202e}d\\u{2028}e");
});

Deno.test("quote() cuts long values", () => {
  assertEquals(quote("a"), '"a"');
  assertEquals(quote(undefined), "undefined");
  assertEquals(quote(["a", 1]), '["a",1]');
  assertMatch(quote("x".repeat(1000)), /^"x{70,80}…"$/);
});
