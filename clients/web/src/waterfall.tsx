/** The parts of a logit, the largest first, each bar beginning where the last one ended. */

import { useState } from "preact/hooks";
import { type Part, perCent, type Step, signed, sum, waterfall } from "./arithmetic";

const SHOWN = 10;

interface Props {
  parts: Part[];
  whole: number | null;
  /** What the parts add up to, in words. */
  totalName: string;
  looked: string;
  onLook: (id: string) => void;
}

function span(steps: Step[]): { low: number; width: number } {
  const ends = steps.flatMap(({ from, to }) => [from, to]);
  const low = Math.min(0, ...ends);
  return { low, width: Math.max(0, ...ends) - low || 1 };
}

export function Waterfall({ parts, whole, totalName, looked, onLook }: Props) {
  const [all, setAll] = useState(false);
  const steps = waterfall(parts, all ? parts.length : SHOWN);
  const { low, width } = span(steps);
  const at = (value: number) => `${(100 * (value - low)) / width}%`;
  const bar = (from: number, to: number) => ({
    left: at(Math.min(from, to)),
    width: `${(100 * Math.abs(to - from)) / width}%`,
  });
  const total = sum(parts);
  return (
    <>
      <table class="waterfall">
        <thead>
          <tr>
            <th scope="col">part</th>
            <th scope="col" class="bars">
              <span class="against-text">▨ against</span> <span class="for-text">■ for</span>
            </th>
            {whole !== null && (
              <th scope="col" class="number">
                share
              </th>
            )}
            <th scope="col" class="number">
              logits
            </th>
          </tr>
        </thead>
        <tbody onMouseLeave={() => onLook("")}>
          {steps.map(({ part, from, to }) => (
            <tr key={part.id} class={part.id === looked ? "looked" : ""} onMouseEnter={() => onLook(part.id)}>
              <th scope="row">
                {part.id === "rest" ? (
                  <button type="button" class="link" aria-expanded="false" onClick={() => setAll(true)}>
                    {part.name}
                  </button>
                ) : (
                  <button type="button" class="part" onFocus={() => onLook(part.id)} onClick={() => onLook(part.id)}>
                    {part.name}
                  </button>
                )}
              </th>
              <td class="bars">
                <span class="zero" style={{ left: at(0) }} />
                <span class={`bar ${part.value < 0 ? "against" : "for"}`} style={bar(from, to)} />
              </td>
              {whole !== null && <td class="number">{perCent(part.value, whole)}</td>}
              <td class="number">{signed(part.value, 2)}</td>
            </tr>
          ))}
        </tbody>
        <tfoot>
          <tr>
            <th scope="row">{totalName}</th>
            <td class="bars">
              <span class="zero" style={{ left: at(0) }} />
              <span class={`bar total ${total < 0 ? "against" : "for"}`} style={bar(0, total)} />
            </td>
            {whole !== null && <td class="number">{perCent(total, whole)}</td>}
            <td class="number">{signed(total, 2)}</td>
          </tr>
        </tfoot>
      </table>
      {all && parts.length > SHOWN + 1 && (
        <button type="button" class="link" aria-expanded="true" onClick={() => setAll(false)}>
          Show the largest {SHOWN} only
        </button>
      )}
    </>
  );
}
