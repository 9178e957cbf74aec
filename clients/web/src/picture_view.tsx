/** The picture as the model frames it, with a map over it. */

import { useId } from "preact/hooks";
import type { Model } from "./api";
import { largest } from "./arithmetic";
import type { Picture } from "./pictures";

const OPACITY = 0.7; // of the largest square, so that the picture stays to be seen
const LEAST_OPACITY = 0.02;

interface Props {
  picture: Picture;
  model: Model;
  map: number[][] | null;
  /** What the map is of, for those who do not see it. */
  of: string;
}

export function PictureView({ picture, model, map, of }: Props) {
  const { height, width, isGrey, isCropped } = model.input;
  return (
    <div class={`frame ${map ? "mapped" : ""}`} style={{ aspectRatio: `${width} / ${height}` }}>
      <img
        src={picture.url}
        alt={`${picture.name}, as the model frames it`}
        class={`${isCropped ? "cropped" : ""} ${isGrey ? "grey" : ""}`}
        onError={(event) => event.currentTarget.classList.add("unseen")}
        onLoad={(event) => {
          const image = event.currentTarget;
          image.classList.toggle("small", image.naturalWidth < 4 * width || image.naturalHeight < 4 * height);
        }}
      />
      {map && model.tokenGrid && <Squares map={map} model={model} of={of} />}
    </div>
  );
}

function place(map: number[][]): string {
  const { row, column, value } = largest(map);
  const side = value < 0 ? "against" : "for";
  return `strongest ${side} the label in row ${row + 1}, column ${column + 1} of ${map.length} × ${map[0]?.length ?? 0}`;
}

function Squares({ map, model, of }: { map: number[][]; model: Model; of: string }) {
  const stripes = useId();
  const { height, width } = model.input;
  const side = model.tokenGrid?.stride_pixels ?? 1;
  const first = model.tokenGrid?.first_center_pixels ?? 0;
  const most = Math.abs(largest(map).value) || 1;
  return (
    <svg
      viewBox={`0 0 ${width} ${height}`}
      preserveAspectRatio="none"
      role="img"
      aria-label={`Map of ${of}: ${place(map)}`}
    >
      <defs>
        <pattern
          id={stripes}
          width={side / 4}
          height={side / 4}
          patternUnits="userSpaceOnUse"
          patternTransform="rotate(45)"
        >
          <rect class="against" width={side / 4} height={side / 4} />
          <rect class="stripe" width={side / 12} height={side / 4} />
        </pattern>
      </defs>
      {map.flatMap((values, y) =>
        values.map((value, x) => {
          const opacity = (OPACITY * Math.abs(value)) / most;
          if (opacity < LEAST_OPACITY) return null;
          const corner = (place: number) => first + place * side - side / 2;
          const fill = value < 0 ? { fill: `url(#${stripes})` } : { class: "for" };
          const key = `${y},${x}`;
          return <rect key={key} x={corner(x)} y={corner(y)} width={side} height={side} opacity={opacity} {...fill} />;
        }),
      )}
    </svg>
  );
}
