/** What if heads were silent: the mean of each over the training images stands in its place. */

import type { Target } from "./api";
import { headName, probability, signed } from "./arithmetic";
import type { Silence } from "./use_explanation";

interface Props {
  target: Target;
  firstLabel: string;
  silenced: string[];
  silence: Silence | null;
  silences: boolean;
  onSilences: (on: boolean) => void;
  onRestore: () => void;
}

export function WhatIf({ target, firstLabel, silenced, silence, silences, onSilences, onRestore }: Props) {
  return (
    <div class="what-if">
      <label class="switch">
        <input type="checkbox" checked={silences} onChange={(event) => onSilences(event.currentTarget.checked)} />
        What if? A click on a head silences it, at the cost of one more inference
      </label>
      {silenced.length > 0 && (
        <>
          <p>
            <strong>Silent</strong> (the mean over the training images in its place):{" "}
            {silenced.map(headName).join(", ")}.{" "}
            <button type="button" class="link" onClick={onRestore}>
              Restore all
            </button>
          </p>
          <p aria-live="polite">{silence ? outcome(target, firstLabel, silence) : "Asking the server…"}</p>
        </>
      )}
    </div>
  );
}

function outcome(target: Target, firstLabel: string, silence: Silence): string {
  const now = silence.scores.get(target.label);
  const [first] = silence.top;
  const moved = now
    ? `“${target.label}”: logit ${signed(target.logit, 2)} → ${signed(now.logit, 2)}, probability ` +
      `${probability(target.probability)} → ${probability(now.probability)}. `
    : "";
  if (!first) return moved;
  const answer =
    first.label === firstLabel
      ? `The model still says “${first.label}”`
      : `The model now says “${first.label}” instead of “${firstLabel}”`;
  return `${moved}${answer} (${probability(first.probability)}).`;
}
