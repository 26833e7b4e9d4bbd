# package: torch
# load: torch torch.nn torch.utils.data
# Not in requirements.txt, for its size: `pip install --target FOLDER torch`, then `run.py --target …:FOLDER`.
import torch
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(256, 8)
y = (x[:, 0] > 0).float()[:, None]
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), 0.02)
for _ in range(5):
    for a, b in DataLoader(TensorDataset(x, y), batch_size=64, num_workers=2, multiprocessing_context='fork'):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(a), b)
        loss.backward()
        optimizer.step()
print(round(loss.item(), 5), torch.get_num_threads(), torch.cuda.is_available())
print(torch.nn.functional.conv2d(torch.ones(1, 3, 16, 16), torch.ones(4, 3, 3, 3)).sum().item(), torch.rand(400, 400).mm(torch.rand(400, 400)).shape)
