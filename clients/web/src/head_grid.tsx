/** Encoders × heads, coloured by what each head adds to the label that is explained. Arrow keys move in it. */

import { useRef } from "preact/hooks";
import type { HeadCard, Model } from "./api";
import { headId, headName, type Part, perCent, signed } from "./arithmetic";

interface Props {
  model: Model;
  parts: Part[];
  whole: number | null;
  looked: string;
  silenced: string[];
  /** Whether a click silences a head, or keeps it in view. */
  silences: boolean;
  onLook: (id: string) => void;
  onChoose: (id: string) => void;
}

const MOVES: Record<string, [number, number]> = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

export function HeadGrid({ model, parts, whole, looked, silenced, silences, onLook, onChoose }: Props) {
  const table = useRef<HTMLTableElement>(null);
  const values = new Map(parts.filter((part) => part.kind === "head").map((part) => [part.id, part.value]));
  const most = Math.max(...[...values.values()].map(Math.abs), Number.MIN_VALUE);
  const encoders = 1 + Math.max(...model.cards.map((card) => card.encoder));
  const columns = 1 + Math.max(...model.cards.map((card) => card.head));
  const cards = new Map(model.cards.map((card) => [headId(card.encoder, card.head), card]));
  const kept = model.cards.filter((card) => card.row !== null).map((card) => headId(card.encoder, card.head));
  const entry = kept.includes(looked) ? looked : kept[0]; // the one cell that Tab reaches

  function move(event: KeyboardEvent, encoder: number, head: number) {
    const step = MOVES[event.key];
    if (!step) return;
    event.preventDefault();
    for (let row = encoder + step[0], column = head + step[1]; ; row += step[0], column += step[1]) {
      if (row < 0 || column < 0 || row >= encoders || column >= columns) return;
      const cell = table.current?.querySelector<HTMLButtonElement>(`[data-head="${headId(row, column)}"]`);
      if (cell) return cell.focus();
    }
  }

  function cell(encoder: number, head: number) {
    const id = headId(encoder, head);
    const card = cards.get(id);
    const value = values.get(id);
    if (!card) return <td key={id} />;
    if (value === undefined) {
      return (
        <td key={id} class="pruned" title={`${headName(id)} was pruned away`}>
          <span class="unseen">pruned away</span>
        </td>
      );
    }
    const isSilenced = silenced.includes(id);
    const text = whole === null ? signed(value, 1) : perCent(value, whole).replace(" %", "");
    return (
      <td key={id}>
        <button
          type="button"
          data-head={id}
          tabIndex={id === entry ? 0 : -1}
          class={`${value < 0 ? "against" : "for"} ${isSilenced ? "silenced" : ""} ${id === looked ? "looked" : ""}`}
          style={{ "--strength": `${Math.abs(value) / most}` }}
          aria-label={described(card, value, whole, isSilenced)}
          aria-pressed={silences ? isSilenced : id === looked}
          onMouseEnter={() => onLook(id)}
          onFocus={() => onLook(id)}
          onClick={() => onChoose(id)}
          onKeyDown={(event) => move(event, encoder, head)}
        >
          {text}
        </button>
      </td>
    );
  }

  return (
    <table class="heads" ref={table} onMouseLeave={() => onLook("")}>
      <caption class="unseen">What each head adds to the logit; arrow keys move from head to head</caption>
      <thead>
        <tr>
          <td class="corner">encoder \ head</td>
          {Array.from({ length: columns }, (_, head) => (
            <th key={headId(0, head)} scope="col">
              <span class="unseen">head </span>
              {head}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {Array.from({ length: encoders }, (_, encoder) => (
          <tr key={headId(encoder, 0)}>
            <th scope="row">
              <span class="unseen">encoder </span>
              {encoder}
            </th>
            {Array.from({ length: columns }, (_, head) => cell(encoder, head))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function described(card: HeadCard, value: number, whole: number | null, isSilenced: boolean): string {
  const share = whole === null ? "" : `, ${perCent(value, whole)}`;
  const recognises = card.expertLabels.length ? `; recognises ${few(card.expertLabels)} over the data set` : "";
  const name = headName(headId(card.encoder, card.head));
  return `${name}: ${signed(value, 2)} logits${share}${recognises}${isSilenced ? "; silenced" : ""}`;
}

/** The first few of many labels. */
export function few(labels: string[], count = 6): string {
  if (labels.length <= count + 1) return labels.join(", ");
  return `${labels.slice(0, count).join(", ")} and ${labels.length - count} more`;
}

/** What the colours mean, with the largest value they stand for. */
export function Legend({ parts, whole }: { parts: Part[]; whole: number | null }) {
  const heads = parts.filter((part) => part.kind === "head");
  const most = Math.max(...heads.map((part) => Math.abs(part.value)), 0);
  const end = (value: number) => (whole === null ? signed(value, 2) : perCent(value, whole));
  const steps = [1, 0.5, 0];
  return (
    <div class="legend heads" aria-hidden="true">
      <span>{end(-most)} against</span>
      {steps.map((strength) => (
        <i key={`-${strength}`} class="against" style={{ "--strength": `${strength}` }} />
      ))}
      {steps.reverse().map((strength) => (
        <i key={`+${strength}`} class="for" style={{ "--strength": `${strength}` }} />
      ))}
      <span>for {end(most)}</span>
    </div>
  );
}
