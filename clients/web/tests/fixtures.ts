import type { Target } from "../src/api";

/** A label as the server explains it: two heads, and every other kind of part; maps of 1 × 2 tokens. */
export function target(label: string, values: number[], mean: number[] = values.map(() => 0)): Target {
  const names = ["0.0", "1.2", "embedding", "encoders.0.feed_forward", "encoders.1.feed_forward", "biases"];
  const parts = names.map((name, place) => {
    const contribution = values[place] ?? 0;
    return {
      name,
      contribution,
      above_mean: contribution - (mean[place] ?? 0),
      map: [[contribution / 4, (3 * contribution) / 4]],
    };
  });
  const logit = values.reduce((sum, value) => sum + value, 0);
  const heads = parts.slice(0, 2).map(({ name, ...head }) => {
    const [encoder, number] = name.split(".").map(Number);
    return { encoder: encoder ?? 0, head: number ?? 0, ...head };
  });
  const other_parts = parts.slice(2).map(({ map, ...part }) => (part.name === "biases" ? part : { ...part, map }));
  return { index: 0, label, logit, probability: 0.5, heads, other_parts };
}
