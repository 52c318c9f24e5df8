/**
 * @file Loss curves as SVG: a panel per calibration and in it a line per block, so that a block that has not converged is seen at a
 * glance.
 */

/** Mean loss over the steps since the point before, as a line of `loss.jsonl`. */
export interface LossPoint {
  /** Counted from 0. */
  readonly block: number;
  /** Optimiser steps of this block so far. */
  readonly step: number;
  readonly loss: number;
  /** That of the logits, where a block learns by them, too. */
  readonly divergence?: number | undefined;
}

/** The curves of one calibration. */
export interface LossPanel {
  readonly title: string;
  readonly points: readonly LossPoint[];
}

/** Size of a panel, and its margins. */
const WIDTH = 720, HEIGHT = 400, LEFT = 64, RIGHT = 96, TOP = 24, BOTTOM = 44;
const INNER = { width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM };
/** The curve of the logits' divergence, behind those of the blocks. */
const LOGITS = Infinity;
/** Room between two entries of the legend, and how many of them fit. */
const LINE = 16, MOST_NAMES = Math.floor(INNER.height / LINE);

/** The chart: one panel below the other, each with axes of its own, since losses of different calibrations do not compare. */
export const lossChart = (panels: readonly LossPanel[]): string =>
  [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${
      HEIGHT * panels.length
    }" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT * panels.length}" fill="white"/>`,
    `<title>Loss of calibration by block</title>`,
    ...panels.flatMap((panel, i) => [`<g transform="translate(0 ${i * HEIGHT})">`, ...panelLines(panel), "</g>"]),
    "</svg>\n",
  ].join("\n");

/**
 * The elements of a panel. The loss axis is logarithmic, since blocks differ by orders of magnitude; points whose loss is not positive
 * have no place on it and are left out.
 */
function panelLines({ title, points }: LossPanel): readonly string[] {
  const all = points.flatMap(({ block, step, loss, divergence }) => [
    { curve: block, step, loss },
    ...(divergence === undefined ? [] : [{ curve: LOGITS, step, loss: divergence }]),
  ]);
  const shown = all.filter(({ loss }) => Number.isFinite(loss) && loss > 0);
  const steps = shown.reduce((most, { step }) => Math.max(most, step), 1);
  const low = Math.floor(Math.log10(shown.reduce((least, { loss }) => Math.min(least, loss), Infinity)));
  const high = Math.ceil(Math.log10(shown.reduce((most, { loss }) => Math.max(most, loss), 0)));
  const from = Number.isFinite(low) ? low : 0, to = Math.max(Number.isFinite(high) ? high : 0, from + 1);
  const x = (step: number) => (LEFT + step / steps * INNER.width).toFixed(1);
  const y = (loss: number) => (TOP + (to - Math.log10(loss)) / (to - from) * INNER.height).toFixed(1);

  const decades = Array.from({ length: to - from + 1 }, (_, i) => 10 ** (from + i));
  const grid = decades.map((loss) =>
    `<line x1="${LEFT}" x2="${LEFT + INNER.width}" y1="${y(loss)}" y2="${y(loss)}" stroke="#ddd"/>` +
    `<text x="${LEFT - 6}" y="${y(loss)}" text-anchor="end" dominant-baseline="middle">${loss.toPrecision(1)}</text>`
  );
  const ticks = [0, steps / 2, steps].map((step) =>
    `<text x="${x(step)}" y="${TOP + INNER.height + 16}" text-anchor="middle">${Math.round(step)}</text>`
  );
  const drawn = [...new Set(shown.map(({ curve }) => curve))].sort((a, b) => a - b);
  const colour = (i: number) => `hsl(${Math.round(i / Math.max(drawn.length, 1) * 300)} 65% 42%)`;
  const every = Math.max(1, Math.ceil(drawn.length / MOST_NAMES));
  const curves = drawn.map((curve, i) => {
    const line = shown.filter((point) => point.curve === curve).map(({ step, loss }) => `${x(step)},${y(loss)}`);
    const dashes = curve === LOGITS ? ' stroke-dasharray="4 3"' : "";
    return `<polyline points="${line.join(" ")}" fill="none" stroke="${colour(i)}" stroke-width="1.5"${dashes}/>`;
  });
  const named = drawn.flatMap((curve, i) => i % every === 0 || curve === LOGITS ? [{ curve, i }] : []);
  const names = named.map(({ curve, i }, at) => {
    const place = `x="${WIDTH - RIGHT + 8}" y="${TOP + (at + 1) * LINE}"`;
    return `<text ${place} fill="${colour(i)}">${curve === LOGITS ? "logits" : `block ${curve + 1}`}</text>`;
  });
  return [
    `<text x="${LEFT}" y="16" font-weight="bold">${title}</text>`,
    ...grid,
    ...ticks,
    `<text x="${LEFT + INNER.width / 2}" y="${HEIGHT - 8}" text-anchor="middle">optimiser steps</text>`,
    ...curves,
    ...names,
  ];
}
