import { assertEquals, assertThrows } from "@std/assert";
import { adaptersOf, narrowestUser } from "../../compiler/adapters.ts";
import { checkCalibrationSettings, defaultSettings } from "../../compiler/calibrate/settings.ts";
import { planOf } from "../../compiler/plan.ts";
import { changePlan } from "../../compiler/plan_changes.ts";
import { UserError } from "../../ir/errors.ts";
import { eachWidth, WIDTHS } from "../../ir/sites.ts";

const PUBLISHED = planOf({ name: "quept", track: "weights", seed: 0, width: 4096 });
const RANKS = { 2: 64, 3: 48, 4: 48, 5: 32, 6: 32, 7: 16, 8: 16 };

Deno.test("the published recipe has the cascade of the supplement, and a narrower one on narrow models", () => {
  assertEquals(PUBLISHED.recipe.scheme.adapters, adaptersOf("cascaded", RANKS));
  const { adapters } = planOf({ name: "quept", track: "weights", seed: 0, width: 64 }).recipe.scheme;
  assertEquals(WIDTHS.map((width) => adapters.uses[width].rank), [16, 12, 12, 8, 8, 4, 4]);
  const both = planOf({ name: "quept", track: "activations", seed: 0, width: 64 }).recipe.scheme.adapters;
  assertEquals([both.uses[4].rank, both.uses[6].rank, both.uses[8].rank], [24, 16, 8]);
});

Deno.test("one calibration for both tracks is ours, not the published method", () => {
  const { recipe } = planOf({ name: "vernier", track: "both", seed: 0, width: 64 });
  assertEquals([recipe.activations, recipe.cache, recipe.bitGroups.flat().length], [true, true, 7]);
  assertThrows(
    () => planOf({ name: "quept", track: "both", seed: 0, width: 64 }),
    UserError,
    "Expected one track for the recipe quept",
  );
});

Deno.test("adaptersOf() shares pairs of factors as its kind says", () => {
  assertEquals(adaptersOf("cascaded", RANKS).pairs, { common: 64 });
  assertEquals(adaptersOf("cascaded", RANKS).uses[4], { pair: "common", rank: 48 });
  assertEquals(adaptersOf("shared", RANKS).uses[8], { pair: "common", rank: 64 });
  assertEquals(adaptersOf("independent", RANKS).pairs, { 2: 64, 3: 48, 4: 48, 5: 32, 6: 32, 7: 16, 8: 16 });
  assertEquals(adaptersOf("independent", { ...RANKS, 8: 0 }).uses[8], { pair: "8", rank: 0 });
  assertEquals(adaptersOf("off", RANKS).pairs, {});
  const kept = adaptersOf("protected", RANKS).uses;
  assertEquals(WIDTHS.map((width) => [kept[width].rank, kept[width].kept]), [
    [64, 48],
    [48, 32],
    [48, 32],
    [32, 16],
    [32, 16],
    [16, 0],
    [16, 0],
  ]);
  assertEquals(narrowestUser(adaptersOf("cascaded", RANKS), "common"), 2);
  assertEquals(narrowestUser(adaptersOf("independent", RANKS), "6"), 6);
});

Deno.test("changePlan() changes one thing at a time, in order", () => {
  const change = (...changes: string[]) => changePlan(PUBLISHED, changes);
  assertEquals(change("adapters=independent").recipe.scheme.adapters, adaptersOf("independent", RANKS));
  assertEquals(
    change("ranks=192/128/64/32").recipe.scheme.adapters,
    adaptersOf("cascaded", { 2: 192, 3: 128, 4: 128, 5: 64, 6: 64, 7: 32, 8: 32 }),
  );
  assertEquals(change("ranks=2:80").recipe.scheme.adapters, adaptersOf("cascaded", { ...RANKS, 2: 80 }));
  assertEquals(change("adapters=off").recipe.scheme.adapters.pairs, {});
  assertEquals(
    change("adapters=protected", "ranks=16").recipe.scheme.adapters,
    adaptersOf("protected", { 2: 16, 3: 16, 4: 16, 5: 16, 6: 16, 7: 16, 8: 16 }),
  );
  assertEquals(change("adapter-space=scale").recipe.scheme.adapterSpace, "scale");
  assertEquals(change("groups=8,7,6,5/4").recipe.bitGroups, [[8, 7, 6, 5], [4]]);
  assertEquals(change("group-size=2:128,3:64").recipe.scheme.groupSizes, {
    ...PUBLISHED.recipe.scheme.groupSizes,
    2: 128,
    3: 64,
  });
  assertEquals(change("group-size=32").recipe.scheme.groupSizes[8], 32);
  assertEquals(change("master=int8").recipe.scheme.master, { kind: "int8", groupSize: 64 });
  assertEquals([change("rotate=on").recipe.rotate, change("rotate=on").chooseRotation], [true, false]);
  assertEquals(change("rotate=auto").chooseRotation, true);
  assertEquals(change("merge=uniform", "lambdas=0.1,0.2,0.3,0.4", "top=0.25").settings.merge, {
    kind: "uniform",
    top: 0.25,
    weights: [0.1, 0.2, 0.3, 0.4],
  });
  assertEquals(change("loss=2", "loss=1").settings.lossPower, 1);
  assertEquals(change("logits=1.5").settings.logits, 1.5);
  assertEquals(change("clip-start=8:9").settings.clipStart[8], 9);
  assertEquals(change("inputs=tracks", "balance=on").settings.inputs, "tracks");
});

Deno.test("changePlan() wants weights of the merge where they are used: one per bit group, not all zero", () => {
  const groups = "groups=8/7/6/5/4/3/2",
    refused = (...changes: string[]) =>
      assertThrows(() => changePlan(PUBLISHED, changes), UserError, "weights of the merge");
  refused(groups);
  refused("lambdas=0,0,0,0");
  refused("lambdas=0.5,0.5");
  changePlan(PUBLISHED, [groups, "merge=none"]);
  changePlan(PUBLISHED, [groups, "merge=random"]);
  changePlan(PUBLISHED, [groups, "inputs=tracks"]);
  changePlan(PUBLISHED, [groups, "lambdas=0.1,0.1,0.1,0.1,0.2,0.2,0.2"]);
});

Deno.test("checkCalibrationSettings() refuses numbers out of their range, by name", () => {
  const settings = defaultSettings("weights"), none = eachWidth(() => 0);
  checkCalibrationSettings(settings);
  for (
    const bad of [{ batch: 0 }, { epochs: NaN }, { tokens: 1 }, { refine: Infinity }, { average: 2 }, { every: none }]
  ) {
    const [name = ""] = Object.keys(bad);
    assertThrows(() => checkCalibrationSettings({ ...settings, ...bad }), UserError, `in the setting "${name}`);
  }
});

Deno.test("changePlan() names the change that it cannot make, and what would be right", () => {
  const message = (text: string) => assertThrows(() => changePlan(PUBLISHED, [text]), UserError).message;
  assertEquals(
    message("loss=3"),
    'Expected loss=1|2 but found "loss=3", in --set; p of the reconstruction loss |P - Y|^p',
  );
  for (
    const text of [
      "top=1.5",
      "top=",
      "groups=8,8",
      "groups=9",
      "ranks=1/2",
      "ranks=2:x",
      "rotate=yes",
      "average",
      "batch=0",
    ]
  ) {
    assertEquals(/^Expected /.test(message(text)), true, text);
  }
  assertEquals(/^Expected a setting but found "looss", in --set; use one of adapters, /.test(message("looss=1")), true);
});

Deno.test("clips of activations and caches are for all widths or some", () => {
  const plan = planOf({ name: "vernier", track: "activations", seed: 0, width: 64 });
  const { scheme } = changePlan(plan, ["activation-clip=5:0.95", "cache-clip=0.9"]).recipe;
  assertEquals(scheme.activationClip, { 2: 1, 3: 1, 4: 0.9, 5: 0.95, 6: 1, 7: 1, 8: 1 });
  assertEquals(WIDTHS.map((width) => scheme.cacheClip[width]), WIDTHS.map(() => 0.9));
});
