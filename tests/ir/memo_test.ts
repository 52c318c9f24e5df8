import { assertEquals } from "@std/assert";
import { memoOf } from "../../ir/memo.ts";

Deno.test("memoOf() computes once per object, also where nothing comes of it, and what fails again", () => {
  const asked: object[] = [], [a, b, c] = [{}, {}, {}];
  const memo = memoOf((key: object) => {
    asked.push(key);
    if (key === c) throw new Error("no value");
    return key === a ? undefined : "b";
  });
  assertEquals([memo(a), memo(b), memo(a), memo(b)], [undefined, "b", undefined, "b"]);
  for (let time = 0; time < 2; time++) {
    try {
      memo(c);
    } catch { /* Counted below. */ }
  }
  assertEquals(asked.length, 4);
});
