/** @file The main command: a checkpoint in, an elastic artifact and the table of its precisions out. */
import type { CalibrationProgress } from "../../compiler/calibrate/calibrate.ts";
import { UserError } from "../../ir/errors.ts";
import { type CompileEvent, compileModel } from "../compile_model.ts";
import { deviceText, openDevice } from "./devices.ts";
import { type Host, openModel, openTexts } from "./host.ts";
import { compilationMemoryText, evaluationMemoryText } from "./memory_text.ts";
import type { CompileOptions } from "./options.ts";
import { demandWrite, mayWrite } from "./permissions.ts";
import { createClock, type Progress } from "./progress.ts";
import { rowPrinter } from "./table.ts";

/**
 * Passes over the text when the bundled model is compiled as it is: half of the default, so that a first try takes about a minute
 * on two cores. Eight gain little there (perplexity 1.820 instead of 1.826 at 2 bits, 1.7433 instead of 1.7441 at 3).
 */
const FIRST_TRY_EPOCHS = 4;

/**
 * Compiles, and prints the table.
 *
 * @throws {UserError} on anything wrong with what was given
 */
export async function compileCommand(options: CompileOptions, host: Host): Promise<void> {
  const { out, bits, seed, master, recipe, track, changes, weighting, tie, pins, settings, json } = options,
    { bundled, progress } = host;
  if (options.model !== undefined && options.calibration === undefined) {
    throw new UserError({ what: "Expected a text to calibrate on but found none", mend: "give one with --calib FILE" });
  }
  if (out !== undefined) await demandWrite(out);
  const model = await openModel(options.model, host);
  const calibration = options.calibration === undefined ? bundled.calibration : await openTexts(options.calibration);
  const ownText = options.model === undefined && options.calibration === undefined ? bundled.evaluation : undefined;
  const evaluation = options.evaluation === undefined ? ownText : await openTexts(options.evaluation);
  // Opened late: looking for a GPU takes time, and drivers have things to say that would bury a message about the input.
  await using devices = new AsyncDisposableStack();
  let title = `Compiling ${model.name} for ${bits}`;
  const interruption = out === undefined ? "" : "; an interrupted run goes on from its finished blocks";
  const print = rowPrinter(json, host.print), report = reporter(progress, () => title + interruption);
  await compileModel({
    model,
    backend: async () => {
      const backend = devices.use(await openDevice({ ...options, note: progress.line }));
      title += ` on ${deviceText(backend)}`;
      return backend;
    },
    calibration,
    ...(evaluation ? { evaluation } : {}),
    bits,
    ...(out === undefined ? {} : { out }),
    seed,
    recipe,
    changes,
    ...(track === undefined ? {} : { track }),
    ...(master === undefined ? {} : { master }),
    weighting,
    tie,
    pins,
    settings: options.model === undefined && options.calibration === undefined
      ? { epochs: FIRST_TRY_EPOCHS, ...settings }
      : settings,
    report: (event) => {
      if (event.kind !== "result") return report(event);
      progress.end();
      print(event.row);
    },
  });
  progress.line(out === undefined ? await nothingSaved() : `Saved to ${out}`);
}

async function nothingSaved(): Promise<string> {
  return `Nothing saved; to save, ${await mayWrite() ? "" : "run with -P and "}give --out DIR`;
}

/** Events as words; `title` is the first line, asked for when work begins. */
function reporter(
  { line, status, end }: Progress,
  title: () => string,
): (event: Exclude<CompileEvent, { kind: "result" }>) => void {
  const rehearsing = createClock(), calibrating = createClock(), refining = createClock();
  let measuring = createClock();
  const learning = (
    what: string,
    { block, blocks, step, steps, loss, divergence }: CalibrationProgress,
    leftOf: (done: number) => string | undefined,
  ): void => {
    const left = leftOf((block + step / steps) / blocks);
    const words = [
      `${what} block ${block + 1} of ${blocks}`,
      `step ${step} of ${steps}`,
      `loss ${loss.toPrecision(4)}`,
      divergence === undefined ? undefined : `of logits ${divergence.toPrecision(4)}`,
    ];
    status([...words, left].filter(Boolean).join(", "));
  };
  return (event) => {
    switch (event.kind) {
      case "start":
        return line(title());
      case "note":
        return line(event.text);
      case "memory":
        return line(compilationMemoryText(event.memory));
      case "evaluation":
        return line(evaluationMemoryText(event.memory));
      case "rehearsal":
        return learning("Rehearsing", event.progress, rehearsing);
      case "calibration":
        return learning("Calibrating", event.progress, calibrating);
      case "refinement": {
        const { done, all, progress } = event;
        return learning(`Refining mixtures, ${done + 1} of ${all},`, progress, (part) => refining((done + part) / all));
      }
      case "sensitivity": {
        const left = measuring(event.done / event.all);
        status([`Measuring sensitivities: ${event.done} of ${event.all}`, left].filter(Boolean).join(", "));
        if (event.done < event.all) return;
        // Behind a rehearsal it comes again.
        measuring = createClock();
        return end();
      }
      case "allocation":
        status(`Measuring mixtures: ${event.done} of ${event.all}`);
        return event.done === event.all ? end() : undefined;
      default:
        return event satisfies never;
    }
  };
}
