"""What a merged version keeps for each task beside its trunk.

overlay        the file of a task: masks, thin matrices, scales, heads
task_model     trunk, overlay and base, put together as they are read
compression    what that saves, and how near it comes to the experts
expert_heads   heads of experts, put in place of a model's own
"""
