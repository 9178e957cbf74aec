/** Pictures of the data set for which a head spoke most, cut from the one picture that the server has of all heads. */

import { useEffect, useState } from "preact/hooks";
import type { HeadSamples, Model, Server } from "./api";
import { signed } from "./arithmetic";

/** Address of that picture, once it is there; without it the page is whole. */
export function useSheet(server: Server, model: Model | null): string {
  const [sheet, setSheet] = useState("");
  useEffect(() => {
    let address = "";
    let left = false;
    setSheet("");
    if (model?.samples) {
      server.headSamples(model).then(
        (picture) => {
          if (left) return;
          address = URL.createObjectURL(picture);
          setSheet(address);
        },
        () => undefined, // Pictures are no part of what is claimed.
      );
    }
    return () => {
      left = true;
      if (address) URL.revokeObjectURL(address);
    };
  }, [server, model]);
  return sheet;
}

interface Props {
  samples: HeadSamples;
  sheet: string;
  row: number;
}

/** Share of the way along a row or column of tiles, as `background-position` counts it. */
function place(index: number, tiles: number): string {
  return `${tiles > 1 ? (100 * index) / (tiles - 1) : 0}%`;
}

export function Samples({ samples, sheet, row }: Props) {
  const own = samples.samples.filter((sample) => sample.row === row);
  if (!own.length) return null;
  const rows = 1 + Math.max(...samples.samples.map((sample) => sample.row));
  const isSmall = samples.tileWidth <= 32;
  return (
    <ul class="samples">
      {own.map((sample) => (
        <li key={sample.column}>
          <span
            class={isSmall ? "tile small" : "tile"}
            role="img"
            aria-label={`${sample.label}, ${signed(sample.contribution, 2)} logits`}
            style={{
              aspectRatio: `${samples.tileWidth} / ${samples.tileHeight}`,
              backgroundImage: `url(${sheet})`,
              backgroundSize: `${100 * samples.columns}% ${100 * rows}%`,
              backgroundPosition: `${place(sample.column, samples.columns)} ${place(row, rows)}`,
            }}
          />
          <span aria-hidden="true">
            {sample.label} <small>{signed(sample.contribution, 2)}</small>
          </span>
        </li>
      ))}
    </ul>
  );
}
