import { assert, assertEquals } from "@std/assert";
import { openWasm } from "../../backends/wasm/backend.ts";
import { createRunner } from "../../backends/runner.ts";
import { openCheckpoint } from "../../compiler/frontends/checkpoint.ts";
import { localFolder } from "../../compiler/frontends/source.ts";
import { parseTask, TASK_LAYOUTS } from "../../compiler/frontends/tasks.ts";
import { openTokenizer } from "../../compiler/frontends/tokenizer.ts";
import { defaultRecipe } from "../../compiler/recipe.ts";
import { checkpointSource } from "../../runtime/checkpoint_source.ts";
import { answerTask } from "../../runtime/choices.ts";
import { configurationOf } from "../../runtime/configuration.ts";

interface Golden {
  readonly acc: number;
  readonly accNorm: number | null;
  readonly logLikelihoods: readonly (readonly number[])[];
}

const at = (path: string) => new URL(`../${path}`, import.meta.url);

Deno.test("answerTask() chooses as the LM Evaluation Harness does, in all four layouts", async () => {
  const goldens: Readonly<Record<string, Golden>> = JSON.parse(
    await Deno.readTextFile(at("parity/goldens/tasks.json")),
  );
  const folder = await localFolder(at("../examples/models/world").pathname), tokenizer = await openTokenizer(folder);
  await using backend = await openWasm({ threads: 1 });
  const source = checkpointSource(await openCheckpoint(folder), createRunner(backend), defaultRecipe("weights", 0));
  const scorer = { source, config: configurationOf(source, "16") };
  for (const layout of TASK_LAYOUTS) {
    const golden = goldens[layout], file = `data/tasks/${layout}.jsonl`;
    if (!golden) throw new Error(`Expected a golden of ${layout}`);
    const task = parseTask(await Deno.readFile(at(file)), file);
    assertEquals(task.name, layout, "found by its fields");
    const score = await answerTask(task, { scorer, tokenizer, limit: 256 });
    assertEquals([score.items, score.acc, score.accNorm], [16, golden.acc, golden.accNorm ?? score.accNorm], layout);
    for (const [i, { logLikelihoods, chosen }] of score.answers.entries()) {
      const theirs = golden.logLikelihoods[i] ?? [];
      assertEquals(chosen, theirs.indexOf(Math.max(...theirs)), `${layout} ${i}`);
      for (const [j, value] of logLikelihoods.entries()) {
        const expected = theirs[j] ?? NaN;
        assert(
          Math.abs(value - expected) < 2e-4 * Math.max(1, Math.abs(expected)),
          `${layout} ${i}.${j}: ${value}, ${expected}`,
        );
      }
    }
  }
});
