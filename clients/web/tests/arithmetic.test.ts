import { describe, expect, it } from "vitest";
import {
  byKind,
  bySize,
  contrast,
  largest,
  partsOf,
  perCent,
  probability,
  signed,
  sum,
  total,
  waterfall,
  whole,
  wholeMap,
} from "../src/arithmetic";
import { target } from "./fixtures";

const MEAN = [0.5, 0.25, 0.1, 0.2, -0.3, 0.4];
const THREE = target("3", [2, -1, 0.5, 3, 1, -0.25], MEAN);
const EIGHT = target("8", [1, 1, 0.25, 2, -1, 0.5], MEAN);
const MEAN_LOGIT = MEAN.reduce((all, value) => all + value, 0);

describe("parts", () => {
  it("add up to the logit above the mean of all labels", () => {
    expect(sum(partsOf(THREE))).toBeCloseTo(THREE.logit - MEAN_LOGIT, 12);
  });

  it("have names that a person reads, and ids that tell heads apart", () => {
    expect(partsOf(THREE).map((part) => [part.id, part.name])).toEqual([
      ["0.0", "encoder 0 head 0"],
      ["1.2", "encoder 1 head 2"],
      ["embedding", "embedding"],
      ["encoders.0.feed_forward", "encoder 0 feed-forward"],
      ["encoders.1.feed_forward", "encoder 1 feed-forward"],
      ["biases", "biases"],
    ]);
  });

  it("keep their sum when they are put together by kind", () => {
    const kinds = byKind(partsOf(THREE));
    expect(sum(kinds)).toBeCloseTo(sum(partsOf(THREE)), 12);
    expect(kinds.map(({ kind, parts }) => [kind, parts])).toEqual([
      ["head", 2],
      ["feed-forward", 2],
      ["embedding", 1],
      ["biases", 1],
    ]);
  });

  it("are sorted by size whatever their sign", () => {
    expect(bySize([{ value: 1 }, { value: -3 }, { value: 2 }]).map((part) => part.value)).toEqual([-3, 2, 1]);
  });
});

describe("shares", () => {
  it("add up to 100 per cent of a logit above the mean", () => {
    const parts = partsOf(THREE);
    const ofWhole = whole(parts) ?? Number.NaN;
    expect(sum(parts.map((part) => ({ value: (100 * part.value) / ofWhole })))).toBeCloseTo(100, 10);
  });

  it("keep the sign of their part where the whole is below the mean", () => {
    const parts = partsOf(target("5", [-4, 1, 0, 0, 0, 0]));
    expect(parts.slice(0, 2).map((part) => perCent(part.value, whole(parts)))).toEqual(["−133 %", "+33 %"]);
  });

  it("are left out where the parts nearly cancel", () => {
    const parts = partsOf(target("5", [4, -3.99, 0, 0, 0, 0]));
    expect(whole(parts)).toBeNull();
    expect(perCent(4, whole(parts))).toBe("");
  });
});

describe("a contrast", () => {
  it("adds up to the difference of the two logits", () => {
    expect(sum(contrast(THREE, EIGHT))).toBeCloseTo(THREE.logit - EIGHT.logit, 12);
  });

  it("is turned about when its labels are", () => {
    const turned = contrast(EIGHT, THREE).map((part) => -part.value);
    expect(contrast(THREE, EIGHT).map((part) => part.value)).toEqual(turned);
  });

  it("has maps that add up to its parts", () => {
    for (const part of contrast(THREE, EIGHT)) if (part.map) expect(total(part.map)).toBeCloseTo(part.value, 12);
  });

  it("refuses labels that have different parts", () => {
    const other = { ...EIGHT, heads: EIGHT.heads.slice(1) };
    expect(() => contrast(THREE, other)).toThrow("different parts");
  });
});

describe("maps", () => {
  it("of all parts together add up to what the parts with a map contribute", () => {
    const map = wholeMap(partsOf(THREE));
    const [, ...rest] = [...THREE.other_parts].reverse(); // biases read no token
    const contributions = [...THREE.heads, ...rest].reduce((all, part) => all + part.contribution, 0);
    expect(total(map ?? [])).toBeCloseTo(contributions, 12);
  });

  it("are none where no part has one", () => {
    const parts = partsOf(THREE).map((part) => ({ ...part, map: null }));
    expect(wholeMap(parts)).toBeNull();
  });

  it("have their strongest place by size, not by sign", () => {
    expect(
      largest([
        [1, -2],
        [0.5, 1.5],
      ]),
    ).toEqual({ row: 0, column: 1, value: -2 });
  });
});

describe("the waterfall", () => {
  it("begins at 0, goes on where the last bar ended, and ends at the sum", () => {
    const parts = partsOf(THREE);
    for (const count of [1, 3, 6]) {
      const steps = waterfall(parts, count);
      expect(steps[0]?.from).toBe(0);
      steps.slice(1).forEach((step, place) => {
        expect(step.from).toBe(steps[place]?.to);
      });
      expect(steps.at(-1)?.to).toBeCloseTo(sum(parts), 12);
    }
  });

  it("puts small parts together, but never one alone", () => {
    const parts = partsOf(THREE);
    expect(
      waterfall(parts, 3)
        .map((step) => step.part.name)
        .at(-1),
    ).toBe("3 smaller parts");
    expect(waterfall(parts, 5)).toHaveLength(6);
    expect(waterfall(parts, 5).at(-1)?.part.id).not.toBe("rest");
  });
});

describe("figures", () => {
  it("have a sign, but none where they round to zero", () => {
    expect([signed(1.005, 1), signed(-2.5, 1), signed(-0.001, 2)]).toEqual(["+1.0", "−2.5", "0.00"]);
  });

  it("do not call a small probability impossible", () => {
    expect([probability(0.0004), probability(0), probability(0.9712)]).toEqual(["< 0.1 %", "0.0 %", "97.1 %"]);
  });
});
