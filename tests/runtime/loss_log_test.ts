import { assert, assertEquals } from "@std/assert";
import { lossChart } from "../../runtime/loss_chart.ts";
import { LOSS_CHART, LOSS_FILE, openLossLog } from "../../runtime/loss_log.ts";

Deno.test("openLossLog() keeps the points of finished blocks and replaces those of the block that starts anew", async () => {
  const folder = await Deno.makeTempDir(), read = () => Deno.readTextFile(`${folder}/${LOSS_FILE}`);
  try {
    const first = await openLossLog(folder),
      line = (block: number, step: number, loss: number) => `{"block":${block},"step":${step},"loss":${loss}}\n`;
    first.add({ block: 0, step: 16, loss: 2 });
    assertEquals(await read(), line(0, 16, 2));
    first.add({ block: 1, step: 16, loss: 0.5 });
    await Deno.writeTextFile(`${folder}/${LOSS_FILE}`, `{"block":1,"st`, { append: true });

    const second = await openLossLog(folder);
    second.add({ block: 1, step: 16, loss: 0.25 });
    assertEquals(await read(), line(0, 16, 2) + line(1, 16, 0.25));
    await second.draw();
    assertEquals(
      await Deno.readTextFile(`${folder}/${LOSS_CHART}`),
      lossChart([
        { block: 0, step: 16, loss: 2 },
        { block: 1, step: 16, loss: 0.25 },
      ]),
    );

    const finished = await openLossLog(folder);
    await finished.draw();
    assertEquals(await read(), line(0, 16, 2) + line(1, 16, 0.25));
    (await openLossLog(folder)).add({ block: 0, step: 1, loss: 9 });
    assertEquals(await read(), line(0, 1, 9));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("lossChart() draws one falling line per block within its axes", () => {
  const svg = lossChart([0, 1].flatMap((block) => [1, 2, 3].map((step) => ({ block, step, loss: 10 ** (1 - step) }))));
  const curves = [...svg.matchAll(/polyline points="([^"]*)"/g)].map(([, points = ""]) =>
    points.split(" ").map((point) => point.split(",").map(Number))
  );
  assertEquals(curves.length, 2);
  assertEquals(curves[0], curves[1]);
  // Losses 1, 0.1 and 0.01 are one decade apart, from the top of the plot to its bottom.
  assertEquals(curves[0]?.map(([, y]) => y), [24, 190, 356]);
  assertEquals(svg.match(/>block \d</g), [">block 1<", ">block 2<"]);
});

Deno.test("lossChart() stays a drawing without points and with losses of zero", () => {
  for (const svg of [lossChart([]), lossChart([{ block: 0, step: 1, loss: 0 }])]) {
    assert(!svg.includes("NaN") && !svg.includes("Infinity") && !svg.includes("polyline"), svg);
  }
});
