/**
 * Allocation by traces of the Hessian (HAWQ-V2; Dong et al., NeurIPS 2020): a site loses ½·tr(H)/n·‖Ŵ - W‖² at a width, H being the
 * Hessian of the divergence with respect to its n weights. The trace is estimated with random signs v: KL(W + εv) ≈ ½·ε²·vᵀHv.
 */
import type { Backend } from "../../../backends/backend.ts";
import type { AllocationItem } from "../../../compiler/allocate/frontier.ts";
import { type MeasureInput, openBench, type TensorValues } from "../../../compiler/allocate/bench.ts";
import type { Artifact } from "../../../compiler/artifact/artifact.ts";
import { storedScale } from "../../../compiler/calibrate/column_scales.ts";
import { createPool, createPrograms } from "../../../compiler/calibrate/programs.ts";
import { openCheckpoint } from "../../../compiler/frontends/checkpoint.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { decoderSource } from "../../../compiler/frontends/decoder_source.ts";
import type { Folder } from "../../../compiler/frontends/source.ts";
import { modelSites } from "../../../compiler/model_sites.ts";
import { structureModule } from "../../../compiler/pipeline.ts";
import { fromStored } from "../../../backends/stored.ts";
import { random } from "../../../ir/random.ts";
import { concreteShape } from "../../../ir/types.ts";

/** Size of a random step beside the weights' own, and steps per site. */
const STEP = 0.05, SAMPLES = 4;

/** What measuring an artifact needs: its tensors, and the checkpoint that it was made from. */
export async function measureInputOf(
  { description, has, read }: Artifact,
  folder: Folder,
  backend: Backend,
  sequences: readonly Int32Array[],
): Promise<MeasureInput> {
  const checkpoint = await openCheckpoint(folder), { recipe, module: elastic } = description;
  const source = decoderSource(checkpoint.config);
  return {
    programs: createPrograms(backend),
    structure: structureModule(decoderModule(checkpoint.config), recipe),
    elastic,
    recipe,
    sequences,
    tokens: 2048,
    load: async (name, { dtype, shape }) => {
      const scale = storedScale(name), found = has(scale) ? (await read([scale])).get(scale) : undefined;
      return found
        ? fromStored(dtype, found.bytes)
        : (await checkpoint.tensor(source(name), concreteShape(shape))).data;
    },
    store: { read: (_, wanted) => read(wanted) },
  };
}

/** Every weight site with what its trace predicts that it loses at each width. */
export async function traceItems(input: MeasureInput, seed: number): Promise<readonly AllocationItem[]> {
  const { programs: { backend }, elastic, recipe } = input,
    bench = await openBench(input),
    items: AllocationItem[] = [];
  const parameters = new Map(modelSites(elastic).map((site) => [site.name, site.parameters]));
  let before: TensorValues = bench.start;
  for (const [index, call] of elastic.calls.slice(0, -1).entries()) {
    for (const site of bench.sites(index)) {
      const tensor = (await bench.held(index))[site];
      if (!tensor) throw new Error(`Expected the weight of "${call.prefix}${site}" but found none`);
      const weights = Float32Array.from(await backend.download(tensor)), draw = random(seed, call.prefix + site);
      const size = Math.sqrt(weights.reduce((sum, w) => sum + w * w, 0) / weights.length) * STEP, { type } = tensor;
      let trace = 0;
      for (let sample = 0; sample < SAMPLES; sample++) {
        const pool = createPool(backend), moved = weights.map((w) => w + (draw.int(2) === 0 ? size : -size));
        let values = await bench.forward(index, { [site]: pool.upload(type, moved) }, before);
        for (let next = index + 1; next < elastic.calls.length - 1; next++) {
          const after = await bench.forward(next, {}, values);
          bench.discard([values], [after, before]);
          values = after;
        }
        trace += 2 * await bench.divergence(values) / size ** 2 / SAMPLES;
        bench.discard([values], [before]);
        pool.release();
      }
      const loss: Record<number, number> = {};
      for (const width of recipe.bitGroups.flat()) {
        const pool = createPool(backend), made = (await bench.weights(index, width, pool))[site];
        const rounded = made ? await backend.download(made) : [];
        const error = weights.reduce((sum, w, i) => sum + (w - (rounded[i] ?? NaN)) ** 2, 0);
        loss[width] = trace / weights.length * error / 2;
        pool.release();
      }
      items.push({ site: call.prefix + site, parameters: parameters.get(call.prefix + site) ?? 0, loss });
    }
    const after = await bench.forward(index, {}, before);
    bench.discard([before], [after]);
    before = after;
  }
  bench.discard([before], []);
  bench.release();
  return items;
}
