/** Hands a block and its training to peers/elastic_calibration.py. */
import type { Backend } from "../../../backends/backend.ts";
import { takesPart } from "../../../compiler/calibrate/draw.ts";
import { adapterRateOf } from "../../../compiler/calibrate/optimizer.ts";
import type { Plan } from "../../../compiler/plan.ts";
import { random } from "../../../ir/random.ts";
import type { BenchBlock } from "./block.ts";

/** What the peer prints. */
export interface PeerResult {
  /** Median seconds of one training, and its mean loss per pass. */
  readonly seconds: number;
  readonly loss: number;
  readonly torch: string;
}

/** What the peer does. */
export interface PeerOptions {
  readonly backend: Backend;
  readonly block: BenchBlock;
  readonly plan: Plan;
  /** Seed of the drawn widths, as given to the block's own training. */
  readonly seed: number;
  readonly threads: number;
  readonly repeats: number;
}

/** Trains the block in PyTorch. @throws {Error} where Python lacks it */
export async function trainInTorch(options: PeerOptions): Promise<PeerResult> {
  const folder = await Deno.makeTempDir();
  try {
    const { plan, data } = await describe(options);
    await Deno.writeFile(`${folder}/values.f32`, new Uint8Array(data.buffer));
    await Deno.writeTextFile(`${folder}/plan.json`, JSON.stringify({ ...plan, data: `${folder}/values.f32` }));
    const command = new Deno.Command(Deno.env.get("PYTHON") ?? "python3", {
      args: [new URL("../peers/elastic_calibration.py", import.meta.url).pathname, `${folder}/plan.json`],
    });
    const { success, stdout, stderr } = await command.output();
    if (!success) throw new Error(`The peer failed: ${new TextDecoder().decode(stderr)}`);
    return JSON.parse(new TextDecoder().decode(stdout));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Where values lie in the file, and their shape. */
type Entry = readonly [offset: number, shape: readonly number[]];

async function describe({ backend, block, plan: { recipe, settings }, seed, threads, repeats }: PeerOptions) {
  const { config, batches, layout, start, inputs, targets, opened } = block, parts: Float32Array[] = [];
  let offset = 0;
  const add = (values: Float32Array, shape: readonly number[]): Entry => {
    const entry: Entry = [offset, shape];
    parts.push(values);
    offset += values.length;
    return entry;
  };
  const learned = (name: string): Entry => {
    const tensor = layout.byName.get(name);
    if (!tensor) throw new Error(`Nothing is learned as "${name}"`);
    const size = tensor.shape.reduce((x, y) => x * y, 1);
    return add(start.slice(tensor.offset, tensor.offset + size), tensor.shape);
  };
  const weights: Record<string, Entry> = {};
  for (const { name, values, shape } of await weightsOf(backend, block)) weights[name] = add(values, shape);
  const sites = Object.keys(weights).filter((name) => !name.includes("norm")), widths = recipe.bitGroups.flat();
  const { B, T, h, d } = { B: batches.batch, T: batches.tokens, h: config.hiddenSize, d: config.headDim };
  const rng = random(seed, "bench.draw");
  const plan = {
    threads,
    repeats,
    config: { hidden: h, heads: config.heads, kvHeads: config.kvHeads, headDim: d, eps: config.rmsNormEps },
    settings: { clipRate: settings.clipRate, average: settings.average, space: recipe.scheme.adapterSpace },
    weights,
    clips: sites.flatMap((site) =>
      widths.map((
        width,
      ) => [site, width, [learned(`${site}.clip.high.${width}`), learned(`${site}.clip.low.${width}`)]])
    ),
    adapters: sites.flatMap((site) =>
      widths.map((width) => {
        const { pair } = recipe.scheme.adapters.uses[width];
        return [site, width, adapterRateOf({ settings, recipe }, pair), [
          learned(`${site}.adapter.${pair}.a`),
          learned(`${site}.adapter.${pair}.b`),
        ]];
      })
    ),
    batches: batches.list.map(({ weights: tokenWeights }, i) => ({
      h: add(inputs[i]?.get("h") as Float32Array, [B, T, h]),
      cos: add(inputs[i]?.get("cos") as Float32Array, [B, T, d]),
      sin: add(inputs[i]?.get("sin") as Float32Array, [B, T, d]),
      target: add(targets[i] as Float32Array, [B, T, h]),
      weights: add(tokenWeights, [B, T, 1]),
    })),
    // The widths that the block's own training draws.
    passes: batches.list.map((_, batch) =>
      recipe.bitGroups.filter((group) => takesPart(group, { batch, epoch: 0, every: settings.every })).map((
        group,
      ) => Object.fromEntries(Object.entries(opened.draw(group, rng)).filter(([site]) => sites.includes(site))))
    ),
  };
  const data = new Float32Array(offset);
  let at = 0;
  for (const part of parts) {
    data.set(part, at);
    at += part.length;
  }
  return { plan, data };
}

/** The block's weights as the master gives them back, and its norms. */
async function weightsOf(backend: Backend, { held, config }: BenchBlock) {
  const result: { name: string; values: Float32Array; shape: readonly number[] }[] = [];
  for (const [name, tensor] of Object.entries(held)) {
    const shape = tensor.type.shape.map(Number), values = await backend.download(tensor);
    if (name.endsWith("norm.weight")) result.push({ name, values: Float32Array.from(values), shape });
    if (!name.endsWith(".master.codes")) continue;
    const scales = held[name.replace(/codes$/, "scales")];
    if (!scales) throw new Error(`"${name}" has no scales`);
    const [rows = 1, groups = 1, size = 1] = shape, site = name.replace(/\.master\.codes$/, "");
    const columns = site === "mlp.down.weight"
      ? config.intermediateSize
      : site === "attention.output.weight"
      ? config.heads * config.headDim
      : config.hiddenSize;
    const scale = await backend.download(scales), fine = held[name.replace(/codes$/, "fine")];
    const quarters = fine ? await backend.download(fine) : undefined;
    const weight = Float32Array.from({ length: rows * columns }, (_, i) => {
      const row = Math.floor(i / columns), column = i % columns, group = row * groups + Math.floor(column / size);
      const at = group * size + column % size;
      return ((values[at] ?? 0) + (quarters?.[at] ?? 0) / 4) * (scale[group] ?? 0);
    });
    result.push({ name: site, values: weight, shape: [rows, columns] });
  }
  return result;
}
