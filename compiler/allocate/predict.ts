/**
 * Mixtures predicted before anything is learned, for calibration to learn with: what each site costs alone when it is rounded to
 * nearest, clipped about as far as calibration clips, and the knapsack of these losses. They are not what a budget gets in the end
 * (search.ts finds that), but of that kind: which sites have fewer bits than others hardly depends on what is learned.
 */
import { columnScales } from "../calibrate/column_scales.ts";
import type { MixtureOfBits } from "../calibrate/draw.ts";
import { initialLearned, learnedLayout, storedLearned } from "../calibrate/learned.ts";
import { openHolds } from "../calibrate/stored_holds.ts";
import type { CallStore, StoredTensor } from "../calibrate/store.ts";
import { modelSites } from "../model_sites.ts";
import { type Call, functionOf } from "../../ir/module.ts";
import { random } from "../../ir/random.ts";
import type { BitConfig } from "../../ir/sites.ts";
import { frontierOf, lookUp } from "./frontier.ts";
import type { FrontierRequest } from "./measured_frontier.ts";
import type { MeasureInput } from "./bench.ts";
import { measureSensitivities, type Sensitivities } from "./sensitivity.ts";
import { expandTies, tiedItems, untied } from "./ties.ts";

/** Clip logits of the prediction: sigmoids of 0.65, 0.85 and 0.95 at 2 to 4 bits, where the clip search ends up on average. */
const CLIPS = { 2: 0.62, 3: 1.73, 4: 2.94, 5: 9, 6: 9, 7: 9, 8: 9 } as const;

/** What is predicted from. */
export type PredictInput = Omit<MeasureInput, "store">;

/** Measures every site of the model as it is before training, and solves mixed precision for all budgets. */
export async function predictMixtures(
  input: PredictInput,
  { weighting = "parameters", ties: tiesOf }: {
    readonly weighting?: FrontierRequest["weighting"];
    /** Ties of sites by name; none unless given. */
    readonly ties?: (sites: readonly string[]) => FrontierRequest["ties"];
  } = {},
): Promise<MixtureOfBits> {
  const load = columnScales(input.structure, input.load).load;
  const sensitivities: Sensitivities = await measureSensitivities({
    ...input,
    load,
    store: startStore({ ...input, load }),
  });
  const items = modelSites(input.elastic).filter(({ name }) => sensitivities[name])
    .map(({ name, parameters }) => ({ site: name, parameters, loss: sensitivities[name] ?? {} }));
  const sites = items.map(({ site }) => site), ties = tiesOf?.(sites) ?? untied(sites);
  const frontier = frontierOf(tiedItems(items, ties), { weighting });
  return (bits): BitConfig => {
    const digits = expandTies(lookUp(frontier, bits)?.widths ?? frontier.points[0]?.widths ?? "", ties);
    return Object.fromEntries(sites.map((site, i) => [site, Number(digits[i])]));
  };
}

/** Every call as its training starts, prepared when it is asked for; the last one is kept. */
function startStore(input: PredictInput): CallStore {
  const { programs, elastic, recipe } = input;
  let last: { readonly index: number; readonly tensors: readonly StoredTensor[] } | undefined;
  return {
    load: async (index) => {
      if (last?.index === index) return last.tensors;
      const call = elastic.calls[index] as Call;
      const layout = learnedLayout(functionOf(elastic, call), recipe.scheme, recipe.bitGroups.flat());
      const { stored, release } = await openHolds({ programs, load: input.load }, elastic, call);
      release();
      // B is zero: which A it starts with makes no difference.
      const learned = initialLearned(layout, CLIPS, random(0, "prediction"));
      last = { index, tensors: [...stored, ...storedLearned(layout, call.prefix, learned)] };
      return last.tensors;
    },
    save: () => Promise.reject(new Error("Internal error in allocation: a prediction stores nothing")),
  };
}
