// sandlot: {"visibility": "public", "timeout": "2s"}
//
// The times of sunrise and sunset (UTC) at a place on a day, from the sunrise equation; accurate to
// a few minutes.
//
// curl http://127.0.0.1:8000/v1/functions/sunrise/invoke \
//     -d '{"latitude": 59.91, "longitude": 10.75, "date": "2026-06-21"}'

const RADIANS = Math.PI / 180;
const DAY_MS = 86_400_000;
const J2000_MS = Date.UTC(2000, 0, 1, 12);

export const handler = async ({ latitude, longitude, date }) => {
  if (!(Math.abs(latitude) <= 90) || !(Math.abs(longitude) <= 180)) {
    throw new RangeError(`latitude ${latitude}, longitude ${longitude}: not a place on Earth`);
  }
  const noonMs = Date.parse(`${date}T12:00:00Z`);
  if (Number.isNaN(noonMs)) throw new RangeError(`date ${date}: write it as 2026-06-21`);
  const { transit, declination } = sun(Math.round((noonMs - J2000_MS) / DAY_MS) - longitude / 360);
  const hourAngle = Math.acos(
    (Math.sin(-0.833 * RADIANS) - Math.sin(latitude * RADIANS) * Math.sin(declination)) /
      (Math.cos(latitude * RADIANS) * Math.cos(declination)),
  );
  if (Number.isNaN(hourAngle)) {
    return { date, sun: latitude * declination > 0 ? "never sets" : "never rises" };
  }
  const half = hourAngle / (2 * Math.PI);
  return { date, rises: clock(transit - half), noon: clock(transit), sets: clock(transit + half), daylight_hours: Number((half * 48).toFixed(2)) };
};

/** Return solar noon (days since J2000) and the sun's declination on that day. */
function sun(day) {
  const anomaly = (357.5291 + 0.98560028 * day) * RADIANS;
  const centre = 1.9148 * Math.sin(anomaly) + 0.02 * Math.sin(2 * anomaly) + 0.0003 * Math.sin(3 * anomaly);
  const longitude = anomaly + (centre + 180 + 102.9372) * RADIANS;
  return {
    transit: day + 0.0053 * Math.sin(anomaly) - 0.0069 * Math.sin(2 * longitude),
    declination: Math.asin(Math.sin(longitude) * Math.sin(23.44 * RADIANS)),
  };
}

const clock = (day) => new Date(J2000_MS + day * DAY_MS).toISOString().slice(11, 16);
