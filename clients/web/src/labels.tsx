/** The labels with their probabilities; the one that is explained is chosen here, and one to compare it with. */

import type { Model } from "./api";
import { probability } from "./arithmetic";
import type { Answer, Silence } from "./use_explanation";

interface Props {
  model: Model;
  answer: Answer;
  silence: Silence | null;
  label: string;
  against: string;
  onLabel: (label: string) => void;
  onAgainst: (label: string) => void;
}

export function Labels({ model, answer, silence, label, against, onLabel, onAgainst }: Props) {
  const shown = [...new Set([...answer.top, label, against])].filter((each) => answer.targets.has(each));
  return (
    <section aria-labelledby="labels">
      <h2 id="labels">Labels</h2>
      <ul class="labels">
        {shown.map((each) => {
          const target = answer.targets.get(each);
          if (!target) return null;
          const silenced = silence?.scores.get(each)?.probability;
          const before = `${probability(target.probability)}`;
          return (
            <li key={each}>
              <button type="button" aria-pressed={each === label} onClick={() => onLabel(each)}>
                <span class="name">{each}</span>
                <span class="number">
                  {before}
                  {silenced !== undefined && <span class="after"> → {probability(silenced)}</span>}
                </span>
                <span class="track">
                  <span class="bar" style={{ width: `${100 * target.probability}%` }} />
                  {silenced !== undefined && <span class="bar after" style={{ width: `${100 * silenced}%` }} />}
                </span>
              </button>
            </li>
          );
        })}
      </ul>
      <div class="choices">
        <Choice name="Explain" none="" value={label} labels={model.labels} onChange={onLabel} />
        <Choice
          name="Compare with"
          none="no other label"
          value={against}
          labels={model.labels.filter((each) => each !== label)}
          onChange={onAgainst}
        />
      </div>
    </section>
  );
}

interface ChoiceProps {
  name: string;
  none: string;
  value: string;
  labels: string[];
  onChange: (label: string) => void;
}

function Choice({ name, none, value, labels, onChange }: ChoiceProps) {
  return (
    <label>
      {name}
      <select value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        {none && <option value="">{none}</option>}
        {labels.map((each) => (
          <option key={each} value={each}>
            {each}
          </option>
        ))}
      </select>
    </label>
  );
}
