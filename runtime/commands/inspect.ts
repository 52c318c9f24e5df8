/** @file Looking into a model: its program after any pass, the kernels it becomes, and the memory they take. */
import { isArtifact, openArtifact } from "../../compiler/artifact/artifact.ts";
import type { Frontier } from "../../compiler/allocate/frontier.ts";
import { configOf, parseBitSpec } from "../../compiler/bit_spec.ts";
import { sizeModelOf } from "../../compiler/budget.ts";
import { openCheckpoint } from "../../compiler/frontends/checkpoint.ts";
import { parseDecoderConfig } from "../../compiler/frontends/config.ts";
import { contextLimit, decoderModule } from "../../compiler/frontends/decoder.ts";
import { type ModelSite, modelSites } from "../../compiler/model_sites.ts";
import { defaultRecipe, type Recipe } from "../../compiler/recipe.ts";
import { quote, UserError } from "../../ir/errors.ts";
import type { Module } from "../../ir/module.ts";
import { printModule } from "../../ir/module_text.ts";
import { print } from "../../ir/print.ts";
import type { BitConfig } from "../../ir/sites.ts";
import { typeText } from "../../ir/types.ts";
import { DEPLOY_PASSES, deploySnapshots, elasticSnapshots, type Snapshots } from "../pass_snapshots.ts";
import { trackOf } from "../precision_table.ts";
import { type CataloguedKernel, createCatalogue, type PlannedStep, planSteps, usualSizes } from "../step_plan.ts";
import { type Host, openModel } from "./host.ts";
import type { InspectOptions } from "./options.ts";

/** The setting whose kernels are shown where none is given. */
const USUAL_BITS = "4";

/** A model to look into. */
interface Inspected {
  readonly name: string;
  readonly kind: "checkpoint" | "artifact";
  readonly recipe: Recipe;
  /** By pass, the elastic module last. */
  readonly snapshots: Snapshots;
  readonly elastic: Module;
  readonly contextLimit: number;
  readonly frontier?: Frontier;
}

/**
 * Prints what is asked for: kernels, memory, a program, or an overview.
 *
 * @throws {UserError} on anything wrong with what was given, or names that the model does not have
 */
export async function inspectCommand(options: InspectOptions, host: Host): Promise<void> {
  checkViews(options);
  const model = await inspectedModel(options, host), { elastic, recipe } = model;
  const config = (): BitConfig =>
    configOf(
      parseBitSpec(options.bits ?? USUAL_BITS),
      modelSites(elastic),
      model.frontier,
      sizeModelOf(elastic, recipe.scheme),
    );
  if (options.kernels || options.kernel !== undefined || options.plan) {
    const catalogue = createCatalogue();
    const steps = planSteps(
      { module: elastic, scheme: recipe.scheme },
      config(),
      usualSizes(model.contextLimit),
      catalogue,
    )
      .filter((step) => options.functionName === undefined || step.function === options.functionName);
    if (steps.length === 0) throw unknownName("a function", options.functionName, Object.keys(elastic.functions));
    if (options.kernel !== undefined) host.print(kernelText(catalogue.kernels, options.kernel, options.wgsl));
    else {host.print(
        steps.map((step) => options.plan ? planText(step) : kernelsText(step, catalogue.kernels)).join("\n\n"),
      );}
    return;
  }
  if (options.sites) return host.print(sitesText(modelSites(elastic)));
  const { after, functionName } = options;
  if (after === undefined && functionName === undefined && options.bits === undefined) {
    return host.print(overview(model));
  }
  // Deployment passes are what a setting asks for; without one they have no widths to work with.
  const deployed = options.bits !== undefined || DEPLOY_PASSES.includes(after ?? "");
  const snapshots = new Map([...model.snapshots, ...deployed ? deploySnapshots(elastic, config(), recipe.scheme) : []]);
  const module = after === undefined ? [...snapshots.values()].at(-1) : snapshots.get(after);
  if (!module) throw unknownName("a pass", after, [...model.snapshots.keys(), ...DEPLOY_PASSES]);
  if (functionName === undefined) return host.print(printModule(module).trimEnd());
  const graph = module.functions[functionName];
  if (!graph) throw unknownName("a function", functionName, Object.keys(module.functions));
  host.print(print(graph).trimEnd());
}

/** Refuses options that another one leaves without effect. */
function checkViews({ kernels, kernel, wgsl, plan, sites, after, functionName }: InspectOptions): void {
  const views = [
    ["--kernels", kernels],
    ["--kernel", kernel !== undefined],
    ["--plan", plan],
    ["--sites", sites],
    ["--after", after !== undefined],
  ] as const;
  const [first, second] = views.filter(([, given]) => given).map(([name]) => name);
  if (first && second) {
    throw new UserError({
      what: `Expected one thing to show but found ${first} and ${second}`,
      mend: "give one of them",
    });
  }
  if (wgsl && kernel === undefined) {
    throw new UserError({
      what: "Expected --kernel NAME beside --wgsl but found none",
      mend: "--kernels lists the names",
    });
  }
  if (sites && functionName !== undefined) {
    throw new UserError({ what: "Expected --sites alone but found --function", mend: "leave --function out" });
  }
}

const sitesText = (sites: readonly ModelSite[]): string =>
  sites.map(({ name, role, parameters }) =>
    `${name}, ${role}${role === "weight" ? ` of ${parameters} parameters` : ""}`
  )
    .join("\n");

/** A checkpoint is shown as `compile` would make it elastic for the setting; an artifact as it is. */
async function inspectedModel({ model, bits }: InspectOptions, host: Host): Promise<Inspected> {
  const folder = await openModel(model, host), { name } = folder;
  if (await isArtifact(folder)) {
    const { module, recipe, frontier, config } = (await openArtifact(folder)).description;
    const limit = contextLimit(parseDecoderConfig(new TextEncoder().encode(JSON.stringify(config)), name));
    return {
      name,
      kind: "artifact",
      recipe,
      snapshots: new Map([["artifact", module]]),
      elastic: module,
      contextLimit: limit,
      ...(frontier ? { frontier } : {}),
    };
  }
  const { config } = await openCheckpoint(folder),
    recipe = defaultRecipe(trackOf([parseBitSpec(bits ?? USUAL_BITS)]), 0);
  const snapshots = elasticSnapshots(decoderModule(config), recipe), elastic = [...snapshots.values()].at(-1);
  if (!elastic) throw new Error("Internal error in inspect: no pass left a module");
  return { name, kind: "checkpoint", recipe, snapshots, elastic, contextLimit: contextLimit(config) };
}

function overview({ name, kind, snapshots, elastic, frontier }: Inspected): string {
  const sites = modelSites(elastic), count = (role: string) => sites.filter((site) => site.role === role).length;
  const functions = Object.entries(elastic.functions).map(([key, { nodes }]) => {
    const calls = elastic.calls.filter((call) => call.function === key).length;
    return `  ${key}: ${nodes.length} nodes, ${calls} ${calls === 1 ? "call" : "calls"}`;
  });
  const parameters = sites.reduce((sum, site) => sum + site.parameters, 0).toLocaleString("en-US");
  return [
    `${name}, ${kind}`,
    "functions (--function NAME)",
    ...functions,
    "sites (--sites)",
    `  ${count("weight")} weights of ${parameters} parameters in all, ${count("activation")} activations, ${
      count("key") + count("value")
    } cached values`,
    ...(frontier
      ? [
        `  ${frontier.points.length} allocations of ${frontier.points[0]?.meanBits.toFixed(2)} to ${
          frontier.points.at(-1)?.meanBits.toFixed(2)
        } mean bits`,
        ...(frontier.refined ? [`  ${frontier.refined.length} more of mixtures that learned on their own`] : []),
      ]
      : []),
    "passes (--after PASS)",
    `  ${[...snapshots.keys()].join(", ")}`,
    `  with --bits SPEC also: ${DEPLOY_PASSES.join(", ")}`,
    "step programs (--bits SPEC with --kernels, --kernel NAME --wgsl or --plan)",
  ].join("\n");
}

const stepHead = ({ function: name, calls, tokens, context }: PlannedStep): string =>
  `${name}, ${tokens === 1 ? "1 token" : `${tokens} tokens`}, context ${context}, calls: ${
    calls.map((prefix) => prefix || name).join(" ")
  }`;

function kernelsText(step: PlannedStep, kernels: readonly CataloguedKernel[]): string {
  const lines = step.kernels.flatMap((name) => {
    const spec = kernels.find((kernel) => kernel.name === name)?.spec;
    return [`  ${name}, ${spec?.kind}`, ...(spec?.fuses ?? "").split("\n").map((line) => `    ${line}`)];
  });
  return [stepHead(step), ...lines].join("\n");
}

function planText(step: PlannedStep): string {
  const entries = step.memory.entries.map(({ name, offset, bytes, from, to }) =>
    `  ${name}: bytes ${offset} to ${offset + bytes}, alive from ${step.kernels[from]} to ${step.kernels[to]}`
  );
  return [stepHead(step), `  ${step.memory.arenaBytes} bytes for ${entries.length} intermediate values`, ...entries]
    .join("\n");
}

function kernelText(kernels: readonly CataloguedKernel[], name: string, wgsl: boolean): string {
  const kernel = kernels.find((kernel) => kernel.name === name);
  if (!kernel) throw unknownName("a kernel", name, kernels.map((kernel) => kernel.name));
  if (wgsl) return kernel.wgsl.trimEnd();
  const { spec } = kernel;
  const buffers = spec.buffers.map(({ name, type, use }) => `  ${use} ${name} ${typeText(type)}`);
  return [`${name}, ${spec.kind}`, ...spec.fuses.split("\n").map((line) => `  ${line}`), ...buffers].join("\n");
}

const unknownName = (what: string, found: string | undefined, known: readonly string[]): UserError =>
  new UserError({
    what: `Expected ${what} of the model but found ${quote(found)}`,
    mend: `use one of ${known.join(", ")}`,
  });
