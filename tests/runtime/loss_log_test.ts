import { assert, assertEquals } from "@std/assert";
import { lossChart } from "../../runtime/loss_chart.ts";
import { LOSS_CHART, LOSS_FILE, type LossCurve, openLossLog } from "../../runtime/loss_log.ts";

const point = (block: number, step: number, loss: number) => ({ block, step, loss });
const line = (block: number, step: number, loss: number, curve: LossCurve = {}) =>
  `${JSON.stringify({ ...curve, block, step, loss })}\n`;

/** A folder with what reads its data, removed behind the test. */
async function inFolder(test: (folder: string, read: () => Promise<string>) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder, () => Deno.readTextFile(`${folder}/${LOSS_FILE}`));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("openLossLog() keeps the points of finished blocks and replaces those of the block that starts anew", () =>
  inFolder(async (folder, read) => {
    const first = await openLossLog(folder);
    first.begin({});
    first.add(point(0, 16, 2));
    assertEquals(await read(), `{"block":0,"step":16,"loss":2}\n`);
    first.add(point(1, 16, 0.5));
    await Deno.writeTextFile(`${folder}/${LOSS_FILE}`, `{"block":1,"st`, { append: true });

    const second = await openLossLog(folder);
    second.begin({});
    second.add(point(1, 16, 0.25));
    assertEquals(await read(), line(0, 16, 2) + line(1, 16, 0.25));
    await second.draw();
    assertEquals(
      await Deno.readTextFile(`${folder}/${LOSS_CHART}`),
      lossChart([{ title: "all widths", points: [point(0, 16, 2), point(1, 16, 0.25)] }]),
    );

    const finished = await openLossLog(folder);
    finished.begin({});
    await finished.draw();
    finished.close();
    assertEquals(await read(), line(0, 16, 2) + line(1, 16, 0.25));
    const other = await openLossLog(folder);
    other.begin({});
    other.add(point(0, 1, 9));
    assertEquals(await read(), line(0, 1, 9));
  }));

const REHEARSAL: LossCurve = { stage: "rehearsal" };
const curveOf = (stage: "race" | "refinement", candidate: string, mixture = "mixed@3"): LossCurve => ({
  stage,
  mixture,
  candidate,
});

Deno.test("openLossLog() says of every line but the calibration's which stage, mixture and candidate it belongs to", () =>
  inFolder(async (folder, read) => {
    const log = await openLossLog(folder), race = curveOf("race", "a"), end = curveOf("refinement", "a");
    for (const curve of [REHEARSAL, {}, race, end]) {
      log.begin(curve);
      log.add(point(0, 16, 2));
    }
    assertEquals((await read()).split("\n"), [
      `{"stage":"rehearsal","block":0,"step":16,"loss":2}`,
      `{"block":0,"step":16,"loss":2}`,
      `{"stage":"race","mixture":"mixed@3","candidate":"a","block":0,"step":16,"loss":2}`,
      `{"stage":"refinement","mixture":"mixed@3","candidate":"a","block":0,"step":16,"loss":2}`,
      "",
    ]);
    await log.draw();
    // What is learned and thrown away is data alone.
    assertEquals(
      await Deno.readTextFile(`${folder}/${LOSS_CHART}`),
      lossChart([
        { title: "all widths", points: [point(0, 16, 2)] },
        { title: "mixed@3", points: [point(0, 16, 2)] },
      ]),
    );
  }));

Deno.test("openLossLog() goes on inside any curve, keeps what other settings go on from and drops it in the end", () =>
  inFolder(async (folder, read) => {
    const other = curveOf("refinement", "b", "mixed@2.5"),
      race = curveOf("race", "a"),
      end = curveOf("refinement", "a");
    const run = async (curves: readonly (readonly [LossCurve, readonly number[]])[]) => {
      const log = await openLossLog(folder);
      for (const [curve, blocks] of curves) {
        log.begin(curve);
        for (const block of blocks) for (const step of [16, 20]) log.add(point(block, step, block + 1 / step));
      }
      return log;
    };
    const all = [0, 1, 2];
    (await run([[REHEARSAL, all], [{}, all], [race, all], [end, all]])).close();
    const whole = await read();

    // A compilation that starts anew leaves nothing of the one before.
    await run([[REHEARSAL, [0]]]);
    assertEquals((await read()).split("\n").length, 3);
    await run([[REHEARSAL, [1, 2]], [{}, [0, 1]]]);
    // Other mixtures are asked for, and stopped.
    await run([[REHEARSAL, []], [{}, [2]], [other, [0, 1]]]);
    // The race ends inside of its second block, the refinement inside of its third.
    await run([[REHEARSAL, []], [{}, []], [race, [0, 1]]]);
    await run([[REHEARSAL, []], [{}, []], [race, [1, 2]], [end, all]]);
    const last = await run([[REHEARSAL, []], [{}, []], [{ ...race, mixture: "mixed@3,mixed@3.1" }, []], [end, [2]]]);
    assertEquals((await read()).split("\n").filter((text) => text.includes("mixed@2.5")).length, 4);
    last.close();
    assertEquals(await read(), whole.replaceAll(`"race","mixture":"mixed@3"`, `"race","mixture":"mixed@3,mixed@3.1"`));
    assertEquals(await Array.fromAsync(Deno.readDir(folder), ({ name }) => name), [LOSS_FILE]);
  }));

/** The lines of a drawing as pairs of coordinates. */
const curvesIn = (svg: string): readonly (readonly (readonly number[])[])[] =>
  Array.from(
    svg.matchAll(/polyline points="([^"]*)"/g),
    ([, points = ""]) => points.split(" ").map((point) => point.split(",").map(Number)),
  );

Deno.test("openLossLog() keeps what logits add to a point", () =>
  inFolder(async (folder, read) => {
    const log = await openLossLog(folder), text = `{"block":0,"step":16,"loss":2,"divergence":0.5}\n`;
    log.begin({});
    log.add({ ...point(0, 16, 2), divergence: 0.5 });
    assertEquals(await read(), text);
    // Another run reads it and writes it again.
    const again = await openLossLog(folder);
    again.begin({});
    again.close();
    assertEquals(await read(), text);
  }));

Deno.test("lossChart() draws one falling line per block within its axes", () => {
  const points = [0, 1].flatMap((block) => [1, 2, 3].map((step) => point(block, step, 10 ** (1 - step))));
  const svg = lossChart([{ title: "all widths", points }]), curves = curvesIn(svg);
  assertEquals(curves.length, 2);
  assertEquals(curves[0], curves[1]);
  // Losses 1, 0.1 and 0.01 are one decade apart, from the top of the plot to its bottom.
  assertEquals(curves[0]?.map(([, y]) => y), [24, 190, 356]);
  assertEquals(svg.match(/>block \d</g), [">block 1<", ">block 2<"]);
});

Deno.test("lossChart() draws the divergence of logits beside the loss of the block that learns by it", () => {
  const points = [1, 2, 3].map((step) => ({ ...point(0, step, 10 ** (1 - step)), divergence: 10 ** (2 - step) }));
  const svg = lossChart([{ title: "all widths", points }]), [loss, logits, ...others] = curvesIn(svg);
  assertEquals(others, []);
  assertEquals(loss?.slice(0, 2).map(([, y]) => y), logits?.slice(1).map(([, y]) => y));
  assertEquals(svg.match(/>(block \d|logits)</g), [">block 1<", ">logits<"]);
});

Deno.test("lossChart() gives every panel its title and its own axes, one below the other", () => {
  const points = [1, 2, 3].map((step) => point(0, step, 10 ** (1 - step)));
  const smaller = points.map(({ block, step, loss }) => point(block, 2 * step, loss / 1000));
  const svg = lossChart([{ title: "all widths", points }, { title: "mixed@3", points: smaller }]);
  assertEquals(svg.match(/viewBox="[^"]*"/)?.[0], 'viewBox="0 0 720 800"');
  assertEquals(svg.match(/translate\([^)]*\)/g), ["translate(0 0)", "translate(0 400)"]);
  assertEquals(svg.match(/>(all widths|mixed@3)</g), [">all widths<", ">mixed@3<"]);
  const [first, second] = curvesIn(svg);
  assertEquals(second, first);
});

Deno.test("lossChart() stays a drawing without points and with losses of zero", () => {
  for (const points of [[], [point(0, 1, 0)]]) {
    const svg = lossChart([{ title: "all widths", points }]);
    assert(!svg.includes("NaN") && !svg.includes("Infinity") && !svg.includes("polyline"), svg);
  }
});
