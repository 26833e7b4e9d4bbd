# package: pillow
# load: PIL.Image PIL.ImageFilter PIL.ImageDraw PIL.JpegImagePlugin PIL.PngImagePlugin
import hashlib
import io
from PIL import Image, ImageDraw, ImageFilter

picture = Image.radial_gradient('L').resize((640, 480)).convert('RGB')
ImageDraw.Draw(picture).text((20, 20), 'text', fill=(255, 0, 0))
jpeg = io.BytesIO()
picture.save(jpeg, 'JPEG', quality=85)
small = Image.open(io.BytesIO(jpeg.getvalue())).resize((160, 120), Image.LANCZOS).filter(ImageFilter.GaussianBlur(1))
png = io.BytesIO()
small.save(png, 'PNG')
print(small.size, small.mode, len(jpeg.getvalue()), hashlib.sha256(small.tobytes()).hexdigest())
print(Image.open(io.BytesIO(png.getvalue())).getpixel((80, 60)))
