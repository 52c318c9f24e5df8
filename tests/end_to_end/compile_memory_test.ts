/** The evaluation that ends a compilation takes what it plans, on a backend where a calibration has left its work space. */
import { assert, assertEquals } from "@std/assert";
import { openWasm } from "../../backends/wasm/backend.ts";
import { readTexts } from "../../compiler/frontends/dataset.ts";
import { localFolder } from "../../compiler/frontends/source.ts";
import type { CompilationMemory } from "../../runtime/compilation_memory.ts";
import { compileModel } from "../../runtime/compile_model.ts";
import type { EvaluationMemory } from "../../runtime/evaluation_memory.ts";
import { tinyModel } from "./tiny_model.ts";

Deno.test("the evaluation behind a calibration takes what it planned within 5 %", async () => {
  await using place = await tinyModel();
  await using backend = await openWasm({ threads: 1 });
  const texts = await readTexts(`${place.model}/calibration.jsonl`);
  const times = (count: number) => ({ ...texts, texts: Array.from({ length: count }, () => texts.texts).flat() });
  const compilations: CompilationMemory[] = [], evaluations: EvaluationMemory[] = [];
  // Large batches for the work space of the calibration, and texts enough that the evaluation needs more memory all the same.
  await compileModel({
    model: await localFolder(place.model),
    backend,
    calibration: times(10),
    evaluation: times(30),
    bits: "4",
    settings: { epochs: 1, sequences: 48, batch: 24, measureTokens: 64, clipSearch: false },
    report: (event) => {
      if (event.kind === "memory") compilations.push(event.memory);
      if (event.kind === "evaluation") evaluations.push(event.memory);
    },
  });
  const [compilation] = compilations, [evaluation] = evaluations, taken = backend.memory?.().allocated ?? NaN;
  if (!compilation || !evaluation) throw new Error("Expected plans");
  const { calibration: { peak }, measuring } = compilation, { arena, scratch, total } = evaluation;
  assertEquals({ arena, scratch }, { arena: peak.arena, scratch: peak.scratch });
  assert(total > 1.5 * Math.max(peak.total, measuring.total), `${total} bytes behind ${peak.total}`);
  assert(Math.abs(taken - total) <= 0.05 * total, `planned ${total}, taken ${taken}`);
});
