# The page in a container. CPU: docker build -t retro-explorer .
# CUDA: the same with --build-arg TORCH_INDEX=https://pypi.org/simple, whose torch brings its CUDA libraries.
# ./start.sh does either, and runs it.
FROM python:3.12-slim

# The Hub runs containers as user 1000; start.sh passes its caller's, so that mounted folders can be written.
ARG UID=1000
RUN useradd --no-log-init --create-home --uid "$UID" retro && install -d -o retro /home/retro/.retro

WORKDIR /app
COPY requirements.txt ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN grep '^torch[<>=]' requirements.txt > torch.txt \
    && pip install --no-cache-dir --index-url "$TORCH_INDEX" -r torch.txt \
    && pip install --no-cache-dir -r requirements.txt

# The program is root's: what runs in the container cannot change it.
COPY . ./

USER $UID
ENV HOME=/home/retro \
    RETRO_HOME=/home/retro/.retro \
    GRADIO_SERVER_NAME=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
EXPOSE 7860
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860', timeout=5)"]
CMD ["python", "app.py"]
