// The cursor of the recording on its timeline, and a word where the microphone is denied.
(() => {
  const STEP = 1; // seconds that an arrow key moves

  function place(audio) {
    const answer = audio.closest(".answer");
    const line = answer && answer.querySelector(".timeline");
    if (!line) return;
    const seconds = Number(line.dataset.seconds);
    const now = Math.min(audio.currentTime, seconds);
    line.querySelector(".cursor").style.left = `${(100 * now) / seconds}%`;
    line.windows ??= JSON.parse(line.dataset.windows);
    const last = line.windows[line.windows.length - 1];
    const here = line.windows.find((one) => now < one.to) || last;
    const text = `${here.time}: ${here.says}`;
    answer.querySelector(".now").textContent = text;
    line.setAttribute("aria-valuenow", now.toFixed(2));
    line.setAttribute("aria-valuetext", text);
  }

  function follow(audio) {
    place(audio);
    if (!audio.paused && audio.isConnected) requestAnimationFrame(() => follow(audio));
  }

  const isOurs = (target) => target instanceof HTMLAudioElement && target.closest(".answer");
  document.addEventListener("play", (event) => isOurs(event.target) && follow(event.target), true);
  for (const kind of ["timeupdate", "seeked"]) {
    document.addEventListener(kind, (event) => isOurs(event.target) && place(event.target), true);
  }

  function seek(line, seconds) {
    const audio = line.closest(".answer").querySelector("audio");
    audio.currentTime = Math.min(Math.max(seconds, 0), Number(line.dataset.seconds));
    place(audio);
    return audio;
  }

  document.addEventListener("click", (event) => {
    const line = event.target.closest && event.target.closest(".timeline");
    if (!line) return;
    const box = line.getBoundingClientRect();
    seek(line, (Number(line.dataset.seconds) * (event.clientX - box.left)) / box.width).play();
  });

  document.addEventListener("keydown", (event) => {
    const line = event.target;
    if (!line.matches || !line.matches(".timeline")) return;
    const audio = line.closest(".answer").querySelector("audio");
    const moves = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP };
    if (event.key in moves) seek(line, audio.currentTime + moves[event.key]);
    else if (event.key === "Home") seek(line, 0);
    else if (event.key === "End") seek(line, Number(line.dataset.seconds));
    else if (event.key === " ") audio.paused ? audio.play() : audio.pause();
    else return;
    event.preventDefault();
  });

  function say(text) {
    const note = document.getElementById("microphone");
    if (!note) return;
    note.textContent = text;
    note.hidden = !text;
  }

  const reasons = {
    NotAllowedError: "The browser denied the microphone. Allow it in the address bar and record again, or drop a file.",
    NotFoundError: "There is no microphone. Connect one and record again, or drop a file.",
    NotReadableError: "Another program uses the microphone. Close it and record again, or drop a file.",
  };
  const devices = navigator.mediaDevices;
  if (devices && devices.getUserMedia) {
    const ask = devices.getUserMedia.bind(devices);
    devices.getUserMedia = async (wishes) => {
      try {
        const stream = await ask(wishes);
        say("");
        return stream;
      } catch (error) {
        say(reasons[error.name] || `The microphone cannot be used (${error.message}). Drop a file.`);
        throw error;
      }
    };
  } else {
    const tell = () => say("Browsers allow a microphone only over https, or at localhost. Drop a file.");
    document.addEventListener("click", (event) => {
      if (event.target.closest && event.target.closest('#sound [aria-label="Record audio"]')) tell();
    });
  }
})();
