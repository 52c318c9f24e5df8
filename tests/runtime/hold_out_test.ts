import { assertEquals } from "@std/assert";
import type { TextData } from "../../compiler/frontends/dataset.ts";
import { holdOut } from "../../runtime/hold_out.ts";

const data = (kind: TextData["kind"], ...texts: string[]): TextData => ({ name: "x", kind, texts });
const parts = (texts: TextData) => [holdOut(texts).calibration.texts, holdOut(texts).evaluation.texts];

Deno.test("holdOut() holds out the last tenth of separate texts, one at least", () => {
  const many = Array.from({ length: 25 }, (_, i) => `text ${i}`);
  assertEquals(parts(data("sequences", ...many)), [many.slice(0, 22), many.slice(22)]);
  assertEquals(parts(data("sequences", "a", "b")), [["a"], ["b"]]);
});

Deno.test("holdOut() cuts a document at the last blank before nine tenths", () => {
  assertEquals(parts(data("document", "one two three four five six")), [["one two three four five"], [" six"]]);
  assertEquals(parts(data("sequences", "aaaaaaa bb")), [["aaaaaaa"], [" bb"]]);
});

Deno.test("holdOut() says so where there is no place to cut", () => {
  const whole = data("document", "word");
  assertEquals(parts(whole), [["word"], ["word"]]);
  assertEquals(holdOut(whole).note, "Evaluating on x, the calibration text, which is too short to be split");
});
