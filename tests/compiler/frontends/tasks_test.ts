import { assertEquals, assertThrows } from "@std/assert";
import { parseTask } from "../../../compiler/frontends/tasks.ts";
import { UserError } from "../../../ir/errors.ts";

const bytes = (...rows: readonly unknown[]) =>
  new TextEncoder().encode(rows.map((row) => typeof row === "string" ? row : JSON.stringify(row)).join("\n"));
const only = (row: unknown) => parseTask(bytes(row), "task.jsonl").items[0];

Deno.test("parseTask() builds the harness's prompts", () => {
  assertEquals(only({ goal: "Open a jar", sol1: "Twist.", sol2: "Pull hard.", label: 0 }), {
    pairs: ["Twist.", "Pull hard."].map((text) => ({
      context: "Question: Open a jar\nAnswer:",
      continuation: ` ${text}`,
    })),
    lengths: [6, 10],
    gold: 0,
  });
  assertEquals(
    only({ question: "Why?", choices: { text: ["a", "bé"], label: ["1", "2"] }, answerKey: "2" })?.lengths,
    [1, 2],
  );
  const hellaswag = only({
    activity_label: "Baking [title] bread",
    ctx_a: "A cook mixes.",
    ctx_b: "the Cook",
    endings: ["eats [sub] it.", "runs."],
    label: "1",
  });
  assertEquals(hellaswag?.pairs[0], { context: "Baking. bread: A cook mixes. The cook", continuation: " eats it." });
  assertEquals(
    only({ sentence: "Ann thanked Bob since _ helped.", option1: "Ann", option2: "Bob", answer: "2" })?.pairs,
    [
      { context: "Ann thanked Bob since Ann", continuation: " helped." },
      { context: "Ann thanked Bob since Bob", continuation: " helped." },
    ],
  );
});

Deno.test("parseTask() names file, line and field of what is wrong", () => {
  const message = (...rows: readonly unknown[]) =>
    assertThrows(() => parseTask(bytes(...rows), "task.jsonl"), UserError).message;
  const piqa = { goal: "a", sol1: "b", sol2: "c", label: 1 };
  assertEquals(
    message(piqa, { ...piqa, sol2: 3 }),
    'Expected "sol2" to be a string but found 3, in line 2 of "task.jsonl"; correct the field',
  );
  for (
    const [row, start] of [
      [{ ...piqa, label: 2 }, 'Expected "label" to be the index of the right choice, from 0 to 1'],
      [
        { question: "q", choices: { text: ["a"], label: ["A"] }, answerKey: "A" },
        'Expected "choices.text" to be a list',
      ],
      [
        { question: "q", choices: { text: ["a", "b"], label: ["A", "B"] }, answerKey: "C" },
        'Expected "answerKey" to be',
      ],
      [
        { sentence: "none", option1: "a", option2: "b", answer: "1" },
        'Expected "sentence" to be a sentence with the gap',
      ],
      [{ text: "?" }, 'Expected a field "goal", "answerKey", "endings", "option1" but found text'],
      ["no json", 'Expected a JSON object but found "no json"'],
      ["", "Expected questions but found none"],
    ] as const
  ) assertEquals(message(row).startsWith(start), true, message(row));
});
